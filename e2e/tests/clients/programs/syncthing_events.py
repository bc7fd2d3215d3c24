"""Prints the names of the files that Syncthing has found to be new or changed, a line for each event of its own interface."""

import json
import sys
import time
import urllib.request

PAUSE_S = 0.1
ADDRESS = "http://127.0.0.1:8384/rest/events?events=LocalIndexUpdated&since="
since = 0
while True:
    request = urllib.request.Request(f"{ADDRESS}{since}", headers={"X-API-Key": sys.argv[1]})
    try:
        with urllib.request.urlopen(request) as answer:
            events = json.load(answer)
    except OSError:
        time.sleep(PAUSE_S)
        continue
    for event in events:
        since = event["id"]
        print(*event["data"]["filenames"], flush=True)
