"""The folder of photographs and results, which ends with the server, however that is asked to stop."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_VARIABLE = "GRADIO_TEMP_DIR"
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder for all files of the pages that are built within it; it is removed at the end.

    SIGTERM, which stops services and containers, and SIGHUP end it as Ctrl+C does, with a `KeyboardInterrupt`:
    by themselves they would end the process at once, and leave the files. It lies in the folder that
    ``GRADIO_TEMP_DIR`` names, if it does, or where temporary files do.
    """
    parent = os.environ.get(_VARIABLE) or None
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    # Python lets only the main thread set handlers.
    signals = _SIGNALS if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, _interrupt) for number in signals}
    folder = Path(tempfile.mkdtemp(prefix="demt-demo-", dir=parent))
    try:
        os.environ[_VARIABLE] = str(folder)
        yield folder
    finally:
        # Gradio does not know another way to say where its files are to be.
        if parent is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = parent
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
