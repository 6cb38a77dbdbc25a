"""Files on their way into a folder of results, and the lock of the process that writes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demt.files import LOCK, lock_folder

#: The folder of such files, in the folder of results. What a killed run leaves there is deleted by the next.
_UNFINISHED = ".unfinished"


@contextmanager
def staging_folder(out: Path, process: tuple[int, int]) -> Iterator[Path]:
    """A folder for files on their way, of this process alone; those that killed runs left are deleted."""
    rank, processes = process
    parent, existed = out / _UNFINISHED, out.exists()
    lock = lock_folder(parent / str(rank), "predicts there; wait for it, or choose another folder")
    try:
        for rest in (parent / str(rank)).iterdir():
            if rest.name != LOCK:
                rest.unlink()
        yield parent / str(rank)
    finally:
        lock.release()
        shutil.rmtree(parent / str(rank), ignore_errors=True)
        if rank == 0:
            _remove_others(parent, processes)
        # Where another process works there still, its files are in the way.
        with suppress(OSError):
            parent.rmdir()
            if not existed:
                out.rmdir()


def _remove_others(parent: Path, processes: int) -> None:
    """Delete what killed processes left that have no successor, as there are fewer now."""
    for folder in parent.iterdir():
        if folder.name.isdecimal() and int(folder.name) >= processes:
            with suppress(ValueError), lock_folder(folder, ""):
                shutil.rmtree(folder, ignore_errors=True)
