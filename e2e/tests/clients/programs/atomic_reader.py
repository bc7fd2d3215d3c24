"""Reads what atomic_writer.py writes: atomic_reader.py DIRECTORY STEP. Reads all the time, and again at each event.

All that is read through one opened `..data` must be of one generation, which is never older than one that was read before.
Prints `event N` when an event has led to a generation that is a multiple of STEP.
"""

import os
import sys

import pyinotify

from atomic_writer import DATA, KEYS

top, step = sys.argv[1], int(sys.argv[2])
newest = 0


def read():
    """The generation; None when its directory was removed meanwhile."""
    global newest
    try:
        directory = os.open(f"{top}/{DATA}", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        # What the link led to has gone between two lookups, locally too: ENOENT, and in a mount ESTALE.
        return None
    seen = set()
    try:
        for key in KEYS:
            with open(os.open(key, os.O_RDONLY, dir_fd=directory)) as file:
                seen.add(file.read())
    except OSError:
        return None
    finally:
        os.close(directory)
    if len(seen) != 1 or "" in seen or int(min(seen)) < newest:
        sys.exit(f"read {sorted(seen)} after {newest}")
    newest = int(seen.pop())
    return newest


class Handler(pyinotify.ProcessEvent):
    def process_default(self, event):
        if event.name != DATA:
            return
        while (generation := read()) is None:
            pass
        if generation % step == 0:
            print("event", generation, flush=True)


manager = pyinotify.WatchManager()
notifier = pyinotify.Notifier(manager, Handler())
manager.add_watch(top, pyinotify.IN_MOVED_TO)
print("ready", flush=True)
while True:
    read()
    while notifier.check_events(timeout=1):
        notifier.read_events()
        notifier.process_events()
