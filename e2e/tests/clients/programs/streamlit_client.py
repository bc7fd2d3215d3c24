"""Runs a Streamlit server, and in it the session of a browser: without one, Streamlit watches nothing."""

import asyncio
import os
import subprocess
import sys

from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.asyncio.client import connect

PAUSE_S = 0.1
OPTIONS = [
    "--global.developmentMode=false",
    "--server.port=8501",
    "--server.headless=true",
    "--server.runOnSave=true",
    "--server.fileWatcherType=watchdog",
    # Unloads what it watches when a file changes. What is not in a directory called site-packages is watched.
    "--server.folderWatchBlacklist=" + os.environ["PYTHONPATH"],
    "--browser.gatherUsageStats=false",
]


async def browse():
    while True:
        try:
            page = await connect("ws://127.0.0.1:8501/_stcore/stream", max_size=None)
            break
        except OSError:
            await asyncio.sleep(PAUSE_S)
    run = BackMsg()
    run.rerun_script.query_string = ""
    await page.send(run.SerializeToString())
    async for _ in page:
        pass


subprocess.Popen([sys.executable, "-m", "streamlit", "run", *OPTIONS, "app.py"])
asyncio.run(browse())
