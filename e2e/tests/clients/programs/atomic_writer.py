"""Replaces the content of a directory as a kubelet does for a ConfigMap: atomic_writer.py DIRECTORY FIRST LAST.

Each generation is a new directory with a time in its name. `..data` is a link to it, put in place by a rename; what users
open are links through `..data`, made once. The directory of the generation before is removed. No pause is made.
"""

import datetime
import os
import shutil
import sys

KEYS = ["alpha", "beta", "gamma", "nested/delta"]
DATA, NEXT = "..data", "..data_tmp"

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for generation in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
        old = os.readlink(DATA) if os.path.islink(DATA) else None
        new = datetime.datetime.now().strftime(f"..%Y_%m_%d_%H_%M_%S.{generation}")
        for key in KEYS:
            os.makedirs(os.path.dirname(f"{new}/{key}"), exist_ok=True)
            with open(f"{new}/{key}", "w") as file:
                file.write(str(generation))
        os.symlink(new, NEXT)
        os.rename(NEXT, DATA)
        for top in {key.split("/")[0] for key in KEYS}:
            if not os.path.islink(top):
                os.symlink(f"{DATA}/{top}", top)
        if old:
            shutil.rmtree(old)
