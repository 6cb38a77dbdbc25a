"""Pictures and arrays from files; whatever is wrong with a file is an error that names it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from demt.data.images import read_image

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
ARRAYS = (".npy", ".npz", ".mat")


class DataError(ValueError):
    """A file of a data set is missing, unreadable, or holds other values than its declaration says."""


class MissingFileError(DataError, FileNotFoundError):
    """A file of a data set is missing."""

    def __str__(self) -> str:
        return str(self.args[0])


def read_bytes(path: Path) -> bytes:
    """Contents of a file. Raises `DataError`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"No file {str(path)!r}") from None
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8: turned upright (EXIF), grey repeated, transparency over white.

    Arrays (.npy) are (H, W, 3), uint8 or floating in [0, 1]; those are rounded to 8 bits.

    Raises:
        DataError: naming the file.
    """
    if path.suffix == ".npy":
        return _rgb_of_array(read_array(path), path)
    image = _open(path)
    # Everything but the usual case takes the road of `predict`, so that training and prediction see the same.
    if image.mode == "RGB" and not image.getexif().get(0x0112, 1) > 1 and "transparency" not in image.info:
        return np.array(image)
    try:
        return (read_image(image) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    except ValueError as error:
        raise DataError(f"{str(path)!r}: {error}") from error


def read_array(path: Path, *, key: str | None = None, bits: int | None = None) -> NDArray[Any]:
    """Values of a label file as they are stored: (H, W) or (H, W, C).

    Args:
        path: A picture (palettes give their indices), .npy, .npz or .mat.
        key: Variable of a .npz or .mat file; may be left out where there is only one.
        bits: Bits per channel a picture must have.

    Raises:
        DataError: naming the file.
    """
    if path.suffix.lower() in PICTURES:
        return _read_picture(path, bits)
    if path.suffix == ".mat":
        return _numeric(_pick(load_mat(read_bytes(path), path), key, path), path)
    if path.suffix not in ARRAYS:
        raise DataError(f"{str(path)!r}: expected one of the endings {PICTURES + ARRAYS}, got {path.suffix!r}")
    try:
        loaded = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        loaded = _pick(dict(loaded), key, path) if path.suffix == ".npz" else loaded
    except DataError:
        raise
    except Exception as error:
        # NumPy and zipfile raise many kinds for broken files; pickled objects are refused with ValueError.
        raise DataError(f"{str(path)!r} cannot be read as an array: {error}") from error
    return _numeric(loaded, path)


def load_mat(contents: bytes, path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file (up to version 7) of these contents.

    Raises:
        DataError: if it cannot be read; `path` is named.
        ImportError: if SciPy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError("Reading .mat files needs SciPy: pip install 'demt[data]'") from None
    if b"MATLAB 7.3 MAT-file" in contents[:116] or contents[:4] == b"\x89HDF":
        raise DataError(
            f"{str(path)!r} is a MATLAB file of version 7.3 (HDF5), which SciPy does not read; "
            "save it again in MATLAB with save(..., '-v7')"
        )
    try:
        values: dict[str, Any] = loadmat(io.BytesIO(contents))
    except Exception as error:
        # SciPy raises about anything on broken files.
        raise DataError(f"{str(path)!r} cannot be read as a MATLAB file: {error or type(error).__name__}") from error
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _pick(values: dict[str, Any], key: str | None, path: Path) -> Any:
    if key is None and len(values) == 1:
        return next(iter(values.values()))
    if key not in values:
        raise DataError(f"{str(path)!r}: expected a variable {key!r}, got {sorted(values)}; declare it as `key`")
    return values[key]


def _numeric(values: Any, path: Path) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise DataError(f"{str(path)!r}: expected real numbers, got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{str(path)!r}: expected an array (H, W) or (H, W, C), got {array.shape}")
    return array


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise MissingFileError(f"No file {str(path)!r}") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read as an image: {error}") from error


def _read_picture(path: Path, bits: int | None) -> NDArray[Any]:
    image = _open(path)
    stored = _bits(path, image)
    if bits is not None and stored != bits:
        raise DataError(f"{str(path)!r}: expected {bits} bits per channel, got {stored}; was it saved again?")
    if stored == 16 and len(image.getbands()) > 1:
        raise DataError(f"{str(path)!r} has several channels of 16 bits, of which Pillow reads 8; save it as .npy")
    if image.mode not in ("1", "L", "P", "RGB", "F") and not image.mode.startswith("I"):
        raise DataError(f"{str(path)!r}: expected a grey, palette or RGB picture, got mode {image.mode!r}")
    return np.array(image)


def _bits(path: Path, image: Image.Image) -> int:
    if path.suffix.lower() == ".png":
        # Pillow's mode does not tell: it opens RGB of 16 bits as RGB of 8.
        with path.open("rb") as file:
            header = file.read(25)
        return header[24] if image.mode != "P" else 8
    return {"1": 1, "F": 32, "I": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)


def _rgb_of_array(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    if values.ndim != 3 or values.shape[2] != 3:
        raise DataError(f"{str(path)!r}: expected an image (H, W, 3), got {values.shape}")
    if values.dtype == np.uint8:
        return values
    # One half of a level of slack: resizing may overshoot.
    if values.dtype.kind != "f" or not (values.min() > -0.002 and values.max() < 1.002):
        raise DataError(
            f"{str(path)!r}: expected uint8 or floating point in [0, 1], got {values.dtype} from {values.min():.4g} to "
            f"{values.max():.4g}"
        )
    rounded: NDArray[np.uint8] = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return rounded
