"""Runs a watchman server of its own and prints what it tells of a directory:
watchman_client.py DIRECTORY DIRECTORY_FOR_ITS_FILES."""

import json
import socket
import subprocess
import sys

top, own = sys.argv[1:]
# It ends with this program, however that ends.
server = subprocess.Popen(
    ["setpriv", "--pdeathsig=KILL", "watchman", "--foreground", "--no-save-state"]
    + [f"--sockname={own}/sock", f"--logfile={own}/log", f"--pidfile={own}/pid"],
    stdin=subprocess.DEVNULL,
)
connection = socket.socket(socket.AF_UNIX)
while True:
    try:
        connection.connect(f"{own}/sock")
        break
    except OSError:
        # It does not listen yet, or never will.
        try:
            server.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        sys.exit(open(f"{own}/log").read())

answers = connection.makefile("r")


def ask(*command):
    connection.sendall(json.dumps(command).encode() + b"\n")
    answer = json.loads(answers.readline())
    if "error" in answer:
        sys.exit(answer["error"])


KINDS = {"f": "file", "d": "directory"}
ask("watch", top)
ask("subscribe", top, "day", {"fields": ["name", "exists", "new", "type"]})
is_ready = False
for line in answers:
    told = json.loads(line)
    # At first it lists what is there.
    if not is_ready:
        is_ready = True
        print("ready", flush=True)
        continue
    for file in sorted(told.get("files", []), key=lambda file: file["name"]):
        kind = KINDS.get(file["type"], file["type"])
        if not file["exists"]:
            print("gone", file["name"], flush=True)
        # A directory changes with each of its entries.
        elif file["new"] or kind != "directory":
            print("new-" * file["new"] + kind, file["name"], flush=True)
