"""Files and folders that appear when they are complete."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: The file with which a process locks a folder.
LOCK = ".lock"


def file_sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def whole_file(path: Path, *, within: Path | None = None) -> Iterator[str]:
    """A temporary file to fill, which takes the place of `path` then; after an error there is none.

    It lies beside `path`, or in the folder `within` of the same disk. A killed process leaves it there.
    """
    handle, temporary = tempfile.mkstemp(dir=within or path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        yield temporary
        # mkstemp makes files private; a saved model is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[str], Any], *, within: Path | None = None) -> None:
    """Let `write` fill a temporary file, then put it in place of `path`: readers see the old file or the new.

    See `whole_file` for where it lies.
    """
    with whole_file(path, within=within) as temporary:
        write(temporary)


def write_bytes(path: Path, contents: bytes, *, within: Path | None = None) -> None:
    """`write_whole` of these bytes."""
    write_whole(path, lambda temporary: Path(temporary).write_bytes(contents), within=within)


def check_new(root: Path) -> None:
    """Raise `FileExistsError` if `root` exists and is not an empty folder."""
    if root.is_symlink() or (root.exists() and (not root.is_dir() or any(root.iterdir()))):
        raise FileExistsError(f"{str(root)!r} exists and is not empty; give a new folder")


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to fill, beside `root`, which takes its place when all is written; an interrupted run leaves nothing.

    Raises:
        FileExistsError: if `root` exists and is not an empty folder.
    """
    check_new(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        yield partial
        partial.chmod(0o755)
        if root.exists():
            root.rmdir()
        os.replace(partial, root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def lock_folder(folder: Path, does: str) -> BaseFileLock:
    """The lock of a folder that one process writes to, made if it is missing; that of a process that died is free.

    Raises:
        ValueError: if another process holds it; `does` is what that one does there, and what to do about it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{str(folder)!r} is in use: another process {does}") from None
    return lock
