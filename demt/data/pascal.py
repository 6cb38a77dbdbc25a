"""Labels of PASCAL-Context that are computed from its MATLAB files: boundaries, parts, where normals are valid.

They take long to compute, so they are kept in the user's cache, never in the data set.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demt.data.files import DataError, load_mat, read_array, read_bytes
from demt.data.layout import Derive
from demt.files import write_whole

#: Names in the files of each of the six parts, in the order of the classes of `human_parts`, without the background.
PARTS = (
    "hair head lear lebrow leye mouth nose rear rebrow reye",
    "neck torso",
    "luarm ruarm",
    "lhand llarm rhand rlarm",
    "luleg ruleg",
    "lfoot llleg rfoot rlleg",
)
PART_IDS = {name: number for number, names in enumerate(PARTS, 1) for name in names.split()}
PERSON = 15

_VALID = """3-4 6 9-11 13 15 17-18 22-23 29-30 33-34 36-39 41 43 46 49-51 53 55-56 59 61-62 65-66 68-69 72-73 78 83-85
87-88 95-96 101 104-105 107 111 113 115 122 124 135 141-143 146 150 154 157-159 165 172 174 181 183-184 191 193 195 197
199 202 213 215-216 219-220 223 225 228 230 232-233 238-239 242-243 246 250-252 255 260-261 263 269 272-273 275 281
283-288 290-293 295 304 307 309-310 314-315 319 323 329-331 336 342 345 349-352 355 357 368 370-371 374 379-380 383-384
397 401 403 405 407-408 411-414 417 419 421 423 427 429-430 432 440-444 446 454 457"""


def _ids(ranges: str) -> NDArray[np.int64]:
    pairs = [[int(end) for end in part.split("-")] for part in ranges.split()]
    return np.array([id for pair in pairs for id in range(pair[0], pair[-1] + 1)])


#: Classes of the full PASCAL-Context on which the distilled normals are valid: those that NYUD-v2 has, too.
NORMALS_VALID = _ids(_VALID)


def derived_labels(cache: Path) -> dict[str, Derive]:
    """The functions that `LabelFile.derive` names, with their results kept in a cache folder."""

    def edge(path: Path) -> NDArray[Any]:
        return _context(cache, path) & 1

    def human_parts(path: Path) -> NDArray[Any]:
        contents = read_bytes(path)
        return cached(cache, "pascal-parts-1", contents, lambda: human_parts_of(contents, path))

    def normals(path: Path, context: Path) -> NDArray[Any]:
        colors, valid = read_array(path, bits=8), _context(cache, context) & 2 > 0
        if colors.shape != (*valid.shape, 3):
            raise DataError(f"{str(path)!r} is {colors.shape}, but {str(context)!r} is {valid.shape}")
        return np.where(valid[:, :, None], colors.astype(np.float32), np.float32("nan"))

    return {"edge": edge, "human_parts": human_parts, "normals": normals}


def _context(cache: Path, path: Path) -> NDArray[np.uint8]:
    """Bit 0: boundary; bit 1: the class is one on which normals are valid."""
    contents = read_bytes(path)
    return cached(cache, "pascal-context-1", contents, lambda: _context_of(contents, path))


def _context_of(contents: bytes, path: Path) -> NDArray[np.uint8]:
    classes = load_mat(contents, path).get("LabelMap")
    if not isinstance(classes, np.ndarray) or classes.ndim != 2 or classes.dtype.kind not in "bui":
        raise DataError(f"{str(path)!r}: expected a variable 'LabelMap' with a map (H, W) of class ids")
    valid = np.isin(classes, NORMALS_VALID)
    bits: NDArray[np.uint8] = boundaries_of(classes).astype(np.uint8) | valid.astype(np.uint8) << np.uint8(1)
    return bits


def boundaries_of(classes: NDArray[Any]) -> NDArray[np.bool_]:
    """Boundaries of a class map (H, W): where its Laplacian (four neighbours, mirrored) is not 0, thinned.

    Raises:
        ImportError: if scikit-image is missing.
    """
    try:
        from scipy.ndimage import laplace
        from skimage.morphology import thin
    except ImportError:
        raise ImportError("The boundaries of PASCAL-Context need scikit-image: pip install 'demt[data]'") from None
    boundaries: NDArray[np.bool_] = thin(laplace(classes.astype(np.int64), mode="mirror") != 0)
    return boundaries


def human_parts_of(contents: bytes, path: Path) -> NDArray[np.uint8]:
    """Map (H, W) of the six human parts; all 255 where no person's parts are annotated.

    Raises:
        DataError: if the file is not built as PASCAL-Part's are, or names an unknown part.
    """
    try:
        objects = load_mat(contents, path)["anno"][0][0][1][0]
        shape = objects[0][2].shape
        parts, annotated = np.zeros(shape, np.uint8), False
        for item in objects:
            if item[1][0][0] != PERSON or len(item[3]) == 0:
                continue
            annotated = True
            for part in item[3][0]:
                parts[part[1].astype(bool)] = PART_IDS[str(part[0][0])]
    except DataError:
        raise
    except KeyError as error:
        raise DataError(
            f"{str(path)!r}: unknown name {error}; expected 'anno' with human parts {sorted(PART_IDS)}"
        ) from error
    except (IndexError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{str(path)!r} does not have the structure of PASCAL-Part files: {error}") from error
    return parts if annotated else np.full(shape, 255, np.uint8)


def default_folder() -> Path:
    """``demt/data`` beside the Hugging Face caches (``HF_HOME`` moves them)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "demt" / "data"


def cached(folder: Path, name: str, contents: bytes, compute: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A map (H, W) of uint8 computed from the contents of a file, or what was kept of an earlier time.

    The key is a hash of the contents: a changed file is computed again, a moved one is not. Files appear whole, so that
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
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError):
        pass
    values = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda target: Image.fromarray(values).save(target, "PNG"))
    except OSError as error:
        warnings.warn(
            f"Computed labels cannot be kept in {str(folder)!r} ({error}), so they are computed every time; "
            "give `cache_dir`, or set HF_HOME",
            RuntimeWarning,
            stacklevel=2,
        )
    return values
