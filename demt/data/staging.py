"""Folders that appear when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to fill, beside `root`, which takes its place when all is written; an interrupted run leaves nothing.

    Raises:
        FileExistsError: if `root` exists and is not an empty folder.
    """
    if root.is_symlink() or (root.exists() and (not root.is_dir() or any(root.iterdir()))):
        raise FileExistsError(f"{str(root)!r} exists and is not empty; give a new folder")
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
