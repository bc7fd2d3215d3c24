"""Prints what watchfiles, the watcher of uvicorn, tells: watchfiles_client.py DIRECTORY."""

import os
import sys

from watchfiles import watch

top = sys.argv[1]
ready = False
# A round without changes ends after the timeout; when the first does, the watches are there.
for changes in watch(top, debounce=50, step=10, rust_timeout=100, yield_on_timeout=True):
    if not changes and not ready:
        ready = True
        print("ready", flush=True)
    for change, path in sorted(changes):
        print(change.name, os.path.relpath(path, top), flush=True)
