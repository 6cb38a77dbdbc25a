"""A page that is served by a process of its own, and the end of waits that have none."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Seconds that a loaded machine may take for one thing.
PATIENCE = 300


@contextlib.contextmanager
def serving(folder, *command, port=None, stop=signal.SIGINT):
    """The address of a page that a command serves, and its process, which the signal `stop` ends."""
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "gradio"), "PYTHONPATH": str(ROOT)}
    environment |= {"PYTHONUNBUFFERED": "1", "GRADIO_SERVER_PORT": str(port)} if port else {"PYTHONUNBUFFERED": "1"}
    # A shell's background jobs, in which tests may run, ignore the signal, and so would the server.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A file, not a pipe: a server that says much would wait until somebody reads it.
    said = folder / "said.txt"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        if port is None:
            port = _port(said, process)
        yield f"http://127.0.0.1:{port}/", process
    finally:
        process.send_signal(stop)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _port(said, process):
    deadline = time.monotonic() + PATIENCE
    while not (found := re.search(r"^http://127\.0\.0\.1:(\d+)/", said.read_text(), re.M)):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, f"the server does not say where it is: {said.read_text()}"
        time.sleep(0.1)
    return int(found[1])


@contextlib.contextmanager
def limited(seconds):
    """End the browsers of this process after so long: what waits for one then fails.

    Playwright waits without limit for some things, such as scripts, the mouse and new pages, whatever time-outs say.
    """
    timer = threading.Timer(seconds, _end_browsers)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_browsers():
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("chrom"):
                process.kill()
