"""Prints what is in the file `page` when Qt's QFileSystemWatcher tells of it. It watches the directory and the file, and
the file again when it was replaced, as Qt's manual says."""

from PySide2.QtCore import QCoreApplication, QFileSystemWatcher

PAGE = "page"
application = QCoreApplication([])
watcher = QFileSystemWatcher([".", PAGE])


def say(_path):
    watcher.addPath(PAGE)
    with open(PAGE) as page:
        print(page.read(), end="", flush=True)


watcher.fileChanged.connect(say)
watcher.directoryChanged.connect(say)
say(PAGE)
application.exec_()
