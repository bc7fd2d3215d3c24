"""Prints what pyinotify tells: pyinotify_client.py DIRECTORY."""

import os
import sys

import pyinotify

top = sys.argv[1]
MASK = (
    pyinotify.IN_CREATE
    | pyinotify.IN_MODIFY
    | pyinotify.IN_CLOSE_WRITE
    | pyinotify.IN_ATTRIB
    | pyinotify.IN_DELETE
    | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_MOVED_TO
)


class Printer(pyinotify.ProcessEvent):
    def process_default(self, event):
        if event.mask & pyinotify.IN_IGNORED:
            return
        words = [event.maskname, os.path.relpath(event.pathname, top)]
        # Only a pair with one cookie has this.
        if getattr(event, "src_pathname", None):
            words += ["from", os.path.relpath(event.src_pathname, top)]
        print(*words, flush=True)


manager = pyinotify.WatchManager()
notifier = pyinotify.Notifier(manager, Printer())
manager.add_watch(top, MASK, rec=True, auto_add=True)
print("ready", flush=True)
notifier.loop()
