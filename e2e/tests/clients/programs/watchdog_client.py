"""Prints what watchdog's observer tells: watchdog_client.py DIRECTORY."""

import os
import sys

from watchdog.events import FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

top = sys.argv[1]


def say(*words):
    print(*words, flush=True)


class Printer(FileSystemEventHandler):
    def on_any_event(self, event):
        # A mount tells of an open only with the close after writing, and of no other: SEMANTICS.md.
        if event.event_type in ("opened", "closed_no_write"):
            return
        kind = "directory" if event.is_directory else "file"
        paths = [path for path in (event.src_path, event.dest_path) if path]
        say(f"{event.event_type}-{kind}", *(os.path.relpath(path, top) for path in paths))


observer = InotifyObserver()
observer.schedule(Printer(), top, recursive=True)
observer.start()
say("ready")
observer.join()
