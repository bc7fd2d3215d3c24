"""Runs a program, and prints the words that its work shows: outcome.py [OPTIONS] SHOWN COMMAND…

It is to be started in namespaces of its own, for mounts, processes and the network.

A word is `word-` and letters. SHOWN is the file that the program writes, an address from which it serves, or `-` for its
own output. The first words are printed after `ready`. What the program itself prints follows a `|`.

--ready TEXT    it is ready no sooner than it has printed this
--watched PATH  no words are printed before this file or directory is watched with inotify (the current directory)
--polls         nothing may be watched
"""

import argparse
import fcntl
import glob
import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

PAUSE_S = 0.02
WORD = re.compile("word-[a-z]+")

parser = argparse.ArgumentParser()
parser.add_argument("--ready", default="")
parser.add_argument("--watched", default=".")
parser.add_argument("--polls", action="store_true")
parser.add_argument("shown")
parser.add_argument("command", nargs=argparse.REMAINDER)
options = parser.parse_args()


def raise_loopback():
    """In a network namespace of its own, as it comes, there are no addresses."""
    SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", request)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def leave_other_mounts():
    """The mounts of tests that run now are here too, and would not end before this does."""
    with open("/proc/mounts") as mounts:
        points = [line.split()[1] for line in mounts]
    others = [at for at in points if "/farwatch-test-" in at and not os.getcwd().startswith(at)]
    if others:
        umount = ["umount", "--internal-only", "--no-canonicalize", "--lazy"]
        subprocess.run(umount + others, stderr=subprocess.DEVNULL)


def is_watched():
    """Whether a process of this namespace watches what it should (proc(5))."""
    watched = set()
    for path in glob.glob("/proc/[0-9]*/fdinfo/*"):
        try:
            with open(path) as info:
                watched.update(line.split()[2] for line in info if line.startswith("inotify wd:"))
        except OSError:
            # The process has ended, or the file is closed.
            continue
    if options.polls:
        assert not watched, "it has learnt of events: say so in CLIENTS.md"
        return True
    try:
        return f"ino:{os.stat(options.watched).st_ino:x}" in watched
    except OSError:
        return False


def words_of(text):
    return " ".join(dict.fromkeys(WORD.findall(text)))


def shown():
    try:
        if "://" in options.shown:
            with urllib.request.urlopen(options.shown, timeout=5) as answer:
                return words_of(answer.read().decode())
        with open(options.shown) as file:
            return words_of(file.read())
    except (OSError, ValueError, http.client.HTTPException):
        # It is not there yet, or just being replaced.
        return ""


class Said:
    """What the program has printed so far."""

    def __init__(self, pipe):
        self.is_ready = not options.ready
        self.words = []
        self.has_ended = False
        threading.Thread(target=self.read, args=[pipe], daemon=True).start()

    def read(self, pipe):
        for line in pipe:
            line = line.decode(errors="replace").rstrip()
            print("|", line, file=sys.stderr, flush=True)
            self.is_ready = self.is_ready or options.ready in line
            if words_of(line):
                self.words.append(words_of(line))
        self.has_ended = True


raise_loopback()
leave_other_mounts()
program = subprocess.Popen(options.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
said = Said(program.stdout)
told = ""
prefix = "ready "
while not said.has_ended:
    time.sleep(PAUSE_S)
    if prefix and not said.is_ready:
        continue
    if options.shown == "-":
        words = said.words[0] if said.words else ""
    else:
        words = shown()
    if words and (options.shown == "-" or words != told) and is_watched():
        if options.shown == "-":
            del said.words[0]
        print(prefix + words, flush=True)
        told = words
        prefix = ""
