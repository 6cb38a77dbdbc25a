"""Label maps that take long to compute, computed once and kept in the user's cache, never in the data set."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray
from PIL import Image


def default_folder() -> Path:
    """``demt/data`` beside the Hugging Face caches (``HF_HOME`` moves them)."""
    return Path(constants.HF_HOME) / "demt" / "data"


def cached(folder: Path, name: str, contents: bytes, compute: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A map (H, W) of uint8 computed from the contents of a file, or what was kept of an earlier time.

    The key is a hash of the contents: a changed file is computed anew, a moved one is not. Files appear whole, so that
    workers and machines may share a folder. Where it cannot be written, maps are computed every time.

    Args:
        folder: Cache folder.
        name: What is computed; change it when `compute` changes.
        contents: Contents of the file.
        compute: Computes the map.
    """
    key = hashlib.sha256(contents).hexdigest()[:40]
    path = folder / name / key[:2] / f"{key}.png"
    try:
        with Image.open(path) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError):
        pass
    values = compute()
    try:
        _write(path, values)
    except OSError as error:
        warnings.warn(
            f"Computed labels cannot be kept in {str(folder)!r} ({error}), so they are computed every time; "
            "give `cache_dir`, or set HF_HOME",
            RuntimeWarning,
            stacklevel=2,
        )
    return values


def _write(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getvalue())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
