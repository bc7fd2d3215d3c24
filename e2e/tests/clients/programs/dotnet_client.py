"""Prints what the FileSystemWatcher of .NET tells: dotnet_client.py DIRECTORY OWN. The runtime is in a package of PyPI."""

import json
import os
import sys
import threading

import dotnetcore2.runtime
import pythonnet
from clr_loader import get_coreclr

top, own = sys.argv[1:]
NAME = "Microsoft.NETCore.App"
root = os.path.dirname(dotnetcore2.runtime.get_runtime_path())
(version,) = os.listdir(f"{root}/shared/{NAME}")
config = f"{own}/runtimeconfig.json"
with open(config, "w") as file:
    framework = {"name": NAME, "version": version}
    json.dump({"runtimeOptions": {"tfm": "netcoreapp3.1", "framework": framework}}, file)
pythonnet.set_runtime(get_coreclr(runtime_config=config, dotnet_root=root))
import clr

clr.AddReference("System.IO.FileSystem.Watcher")
from System.IO import FileSystemWatcher


def say(_sender, event):
    print(str(event.ChangeType).lower(), event.Name, flush=True)


def say_renamed(_sender, event):
    print("renamed", event.OldName, event.Name, flush=True)


watcher = FileSystemWatcher(top)
watcher.IncludeSubdirectories = True
watcher.Created += say
watcher.Changed += say
watcher.Deleted += say
watcher.Renamed += say_renamed
watcher.EnableRaisingEvents = True
print("ready", flush=True)
threading.Event().wait()
