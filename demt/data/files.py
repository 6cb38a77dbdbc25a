"""Pictures and arrays from files; anything wrong with a file is an error that names it."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from demt.data.matlab import Unread, read_matlab
from demt.data.png16 import decode_colours

# Pillow before 11.3, and later ones built without it, know nothing of AVIF.
_AVIF = "avif" in features.modules and features.check("avif")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", *((".avif",) if _AVIF else ()))
ARRAYS = (".npy", ".npz", ".mat")
#: What pictures may be inside, whatever their names say: Pillow would start Ghostscript for others.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", *(("AVIF",) if _AVIF else ()))
#: The largest pictures and files that are read; larger ones are refused before memory is spent.
MAX_PIXELS, MAX_BYTES = 2**27, 2**31

_ORIENTATION = 0x0112


class DataError(ValueError):
    """A file of a data set is missing, unreadable, or holds other values than its declaration says."""


class MissingFileError(DataError, FileNotFoundError):
    """A file of a data set is missing."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_hidden(path: Path) -> bool:
    """Whether a path, relative to a data set, is no file of it: hidden, or one of macOS's companions ``._name``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def read_bytes(path: Path) -> bytes:
    """Contents of a file. Raises `DataError`."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise DataError(f"{str(path)!r} has {size} bytes; files of at most {MAX_BYTES} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"No file {str(path)!r}") from None
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error


def open_picture(path: Path, contents: bytes | None = None) -> Image.Image:
    """A picture, decoded and turned upright (EXIF): the one place where image files are opened.

    Args:
        path: The file.
        contents: Its contents, if they are known already; `path` is then only the name in errors.

    Raises:
        DataError: naming the file, if it is missing, damaged, of none of `FORMATS`, or of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(path if contents is None else io.BytesIO(contents), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{str(path)!r} has {image.width} x {image.height} pixels; pictures of at most {MAX_PIXELS} pixels "
                    "are read: cut it into tiles, or shrink it"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image
    except FileNotFoundError:
        raise MissingFileError(f"No file {str(path)!r}") from None
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{str(path)!r} cannot be read as an image: it is not one of {', '.join(FORMATS)}") from None
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged files.
        message = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{str(path)!r} cannot be read as an image: {message}") from error


def picture_size(path: Path, contents: bytes | None = None) -> tuple[int, int] | None:
    """Height and width of a picture as its header says, without decoding it; None where it does not."""
    try:
        with Image.open(path if contents is None else io.BytesIO(contents), formats=FORMATS) as image:
            # Pillow decodes a PNG to find its EXIF data, unless they stand in front of the pixels.
            turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) > 4
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:
        return None


def orientation(path: Path | IO[bytes]) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 is upright, and what files have that say nothing."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def read_array(
    path: Path,
    *,
    contents: bytes | None = None,
    key: str | None = None,
    bits: int | None = None,
    indices: bool = True,
    lossless: bool = False,
) -> NDArray[Any]:
    """Values of a label file as they are stored: (H, W) or (H, W, C).

    Grey pictures of 1, 2 or 4 bits give 0 to 1, 3 or 15. An alpha channel that is opaque throughout is left out.

    Args:
        path: A picture, .npy, .npz or .mat.
        contents: Its contents, if they are known already: their first bytes say what they are, and `path` is then
            only the name in errors.
        key: Variable of a .npz or .mat file; may be left out where there is only one.
        bits: Bits per channel a picture must have.
        indices: Palettes give their indices; else their colours, as grey values where all are grey.
        lossless: Refuse pictures that were compressed with a loss.

    Raises:
        DataError: naming the file.
    """
    ending = path.suffix.lower() if contents is None else ending_of(contents)
    if ending in PICTURES:
        return _read_picture(path, contents, bits, indices, lossless)
    if ending not in ARRAYS:
        raise DataError(f"{str(path)!r}: expected one of the endings {PICTURES + ARRAYS}, got {path.suffix!r}")
    contents = read_bytes(path) if contents is None else contents
    if ending == ".mat":
        return numeric(_pick(load_mat(contents, path), key, path), path)
    try:
        return numeric(_load_npy(contents) if ending == ".npy" else _load_npz(contents, key, path), path)
    except DataError:
        raise
    except Exception as error:
        # NumPy and zipfile raise many kinds for broken files; pickled objects are refused with ValueError.
        message = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{str(path)!r} cannot be read as an array: {message}") from error


def ending_of(contents: bytes) -> str:
    """The ending that a file of these contents has, told by its first bytes; ``".png"`` stands for any picture."""
    starts = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", b"MATLAB": ".mat"}
    return next((ending for start, ending in starts.items() if contents.startswith(start)), ".png")


def _load_npy(contents: bytes) -> NDArray[Any]:
    file = io.BytesIO(contents)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file), np.lib.format.read_array_header_2_0)
    shape, _, dtype = read_header(file)
    # NumPy allocates what the header says before it looks how much there is.
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > len(contents) - file.tell():
        raise ValueError(f"it is cut off: its header promises {dtype} {shape}")
    return np.load(io.BytesIO(contents), allow_pickle=False)  # type: ignore[no-any-return]


def _load_npz(contents: bytes, key: str | None, path: Path) -> NDArray[Any]:
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = _pick(members, key, path)
        if chosen.file_size > MAX_BYTES:
            raise ValueError(f"it unpacks to {chosen.file_size} bytes; at most {MAX_BYTES} are read")
        return _load_npy(archive.read(chosen))


def load_mat(contents: bytes, path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file (up to version 7) of these contents: `demt.data.matlab.read_matlab`.

    Raises:
        DataError: if it cannot be read, or unpacks to more than `MAX_BYTES`; `path` is named.
    """
    try:
        return read_matlab(contents, MAX_BYTES)
    except ValueError as error:
        raise DataError(f"{str(path)!r} cannot be read as a MATLAB file: {error}") from error


def _pick(values: dict[str, Any], key: str | None, path: Path) -> Any:
    if key is None and len(values) == 1:
        return next(iter(values.values()))
    if key not in values:
        raise DataError(f"{str(path)!r}: expected a variable {key!r}, got {sorted(values)}; declare it as `key`")
    return values[key]


def numeric(values: Any, path: Path) -> NDArray[Any]:
    """Numbers as an array (H, W) or (H, W, C). Raises `DataError`, naming `path`."""
    if isinstance(values, Unread):
        raise DataError(f"{str(path)!r}: expected real numbers, got {values}")
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise DataError(f"{str(path)!r}: expected real numbers, got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{str(path)!r}: expected an array (H, W) or (H, W, C), got {array.shape}")
    return array


def _read_picture(path: Path, contents: bytes | None, bits: int | None, indices: bool, lossless: bool) -> NDArray[Any]:
    image = open_picture(path, contents)
    stored = _bits(path, image, contents)
    if bits is not None and stored != bits:
        hint = "; encoding 'classes' reads 0 and 1" if stored == 1 else ""
        raise DataError(f"{str(path)!r}: expected {bits} bits per channel, got {stored}; was it saved again?{hint}")
    if getattr(image, "is_animated", False):
        raise DataError(f"{str(path)!r} holds several pictures, but a label must be a single one; save it alone")
    if stored == 16 and len(image.getbands()) > 1:
        return _read_deep_colours(path, contents)
    if lossless and is_lossy(path, image, contents):
        raise DataError(
            f"{str(path)!r} is a lossy {image.format}, whose compression invents classes; save class maps as PNG, or "
            "declare the encoding 'mask' if it holds only foreground and background"
        )
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        raise DataError(f"{str(path)!r} is a TIFF that stores white as 0, so its values are inverted; save it as PNG")
    if image.mode in ("LA", "PA", "RGBA"):
        if image.getchannel("A").getextrema()[0] != 255:  # type: ignore[comparison-overlap]
            raise DataError(
                f"{str(path)!r} has transparent pixels, which labels cannot have; save it without an alpha channel"
            )
        image = image.convert({"LA": "L", "PA": "P", "RGBA": "RGB"}[image.mode])
    if image.mode not in ("1", "L", "P", "RGB", "F") and not image.mode.startswith("I"):
        raise DataError(f"{str(path)!r}: expected a grey, palette or RGB picture, got mode {image.mode!r}")
    if image.mode == "P" and not indices:
        colors = np.array(image.convert("RGB"))
        return colors[:, :, 0] if (colors == colors[:, :, :1]).all() else colors
    values = np.array(image)
    # Pillow stretches grey of 2 and 4 bits over 0 to 255.
    return values // np.uint8({2: 85, 4: 17}[stored]) if image.mode == "L" and stored in (2, 4) else values


def _read_deep_colours(path: Path, contents: bytes | None) -> NDArray[Any]:
    """Colours of 16 bits, of a file that Pillow has opened and checked, but of which it reads 8."""
    try:
        values = decode_colours(read_bytes(path) if contents is None else contents)
    except ValueError as error:
        raise DataError(
            f"{str(path)!r} has several channels of 16 bits, which are read only from plain RGB PNG ({error}); save it "
            "as .npy"
        ) from error
    if orientation(path if contents is None else io.BytesIO(contents)) != 1:
        raise DataError(f"{str(path)!r} has several channels of 16 bits and is turned by EXIF; save it as .npy")
    return values


def is_lossy(path: Path, image: Image.Image, contents: bytes | None = None) -> bool:
    """Whether an opened picture was compressed with a loss: JPEG and AVIF, WebP and TIFF where they say so."""
    if image.format == "WEBP":
        # The chunk of a lossy image; extended files hold it further down, after their header.
        return b"VP8 " in (read_bytes(path) if contents is None else contents)[:4096]
    return image.format in ("JPEG", "MPO", "AVIF") or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


def _bits(path: Path, image: Image.Image, contents: bytes | None) -> int:
    # Pillow's mode does not tell: it opens RGB of 16 bits as RGB of 8.
    if image.mode == "P":
        return 8
    if image.format == "PNG":
        with path.open("rb") if contents is None else io.BytesIO(contents) as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        return int(image.tag_v2.get(258, (1,))[0])  # type: ignore[attr-defined]
    return {"1": 1, "F": 32, "I": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
