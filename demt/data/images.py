"""Images from files, PIL images, arrays and tensors: for prediction as one kind of tensor, for data sets of 8 bits."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from demt.data.files import DataError, ending_of, open_picture, read_array

ImageLike: TypeAlias = "str | PathLike[str] | Image.Image | NDArray[Any] | Tensor"


def read_image(image: ImageLike) -> Tensor:
    """An image as float32 (C, H, W) in [0, 1].

    Args:
        image: A file path; a PIL image; an array (H, W) or (H, W, C); or a tensor (C, H, W). Files and PIL images are
            turned upright (EXIF), transparency is laid over white, and C is 3; 16-bit grey keeps its precision.
            Arrays and tensors may be bool, uint8, uint16 or floating in [0, 1].

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is no whole image of a known format, too large (`demt.data.files.MAX_PIXELS`), or shape,
            dtype or range do not fit; it names the file.
    """
    if isinstance(image, (str, PathLike)):
        try:
            return _from_file(Path(image))
        except FileNotFoundError:
            raise FileNotFoundError(f"No image at {str(image)!r}") from None
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3):
            raise ValueError(f"Expected an `image` array of shape (H, W) or (H, W, C), got {image.shape}")
        image = image[..., None] if image.ndim == 2 else image
        return _unit_range(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ValueError(f"Expected an `image` tensor of shape (C, H, W), got {tuple(image.shape)}")
        return _unit_range(image)
    raise ValueError(f"Expected `image` to be a path, PIL image, array or tensor, got {type(image).__name__}")


def read_image_bytes(contents: bytes, path: Path) -> Tensor:
    """`read_image` of what is in a file; errors say `path`."""
    return _named(open_picture(path, contents), path)


def read_pixels(
    path: Path, in_chans: int | None = 3, contents: bytes | NDArray[Any] | None = None
) -> NDArray[np.uint8]:
    """An image file as (H, W, in_chans) uint8, with the values that `read_image` gives, rounded to 8 bits.

    Pictures have three channels: grey is repeated, transparency laid over white. For one channel their mean is taken;
    four are those of a picture with an alpha channel, as they are. Arrays (.npy) have the channels asked for, (H, W)
    for one, as uint8 or floating point in [0, 1]. With None, pictures have three channels and arrays those they have.

    Args:
        path: The file.
        in_chans: See above.
        contents: What is in it, bytes or an array, where that is known; `path` is then only the name in errors.

    Raises:
        DataError: naming the file.
    """
    if isinstance(contents, np.ndarray):
        return _uint8_of_array(contents, path, in_chans)
    if (path.suffix.lower() if contents is None else ending_of(contents)) == ".npy":
        return _uint8_of_array(read_array(path, contents=contents), path, in_chans)
    in_chans = 3 if in_chans is None else in_chans
    image = open_picture(path, contents)
    if in_chans == 4 and image.mode == "RGBA":
        return np.array(image)
    if in_chans not in (1, 3):
        expected = "a picture with an alpha channel" if in_chans == 4 else "an array (.npy)"
        raise DataError(f"{str(path)!r}: expected an image of {in_chans} channels, {expected}, got mode {image.mode!r}")
    # Everything but the usual case is read as `predict` reads it, so that training and prediction see the same.
    if in_chans == 3 and image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    values = _named(image, path)
    values = grey(values) if in_chans == 1 else values
    return (values * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def grey(images: Tensor) -> Tensor:
    """Images (..., C, H, W) as (..., 1, H, W): the mean of their channels."""
    return images.mean(-3, keepdim=True)


def _from_file(path: Path) -> Tensor:
    return _named(open_picture(path), path)


def _named(image: Image.Image, path: Path) -> Tensor:
    try:
        return _from_pil(image)
    except Exception as error:
        # Pillow converts on demand, and raises almost anything if a profile or palette is damaged.
        raise DataError(f"{str(path)!r} cannot be read as an image: {error}") from error


def _uint8_of_array(values: NDArray[Any], path: Path, in_chans: int | None) -> NDArray[np.uint8]:
    values = values[:, :, None] if values.ndim == 2 else values
    if values.shape[2] != (in_chans or values.shape[2]):
        raise DataError(f"{str(path)!r}: expected an image (H, W, {in_chans}), got {values.shape}")
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


def _from_pil(image: Image.Image) -> Tensor:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow opens 16-bit PNGs and TIFFs as "I;16…" or "I".
        values = np.asarray(image).astype(np.float32) / 65535
        if values.max(initial=0) > 1 or values.min(initial=0) < 0:
            raise ValueError("Expected grey values of 16 bits (0 to 65535), got a wider range; scale the image first")
        return torch.from_numpy(values)[None].expand(3, -1, -1)
    if image.mode == "F":
        return _unit_range(torch.from_numpy(np.array(image)))[None].expand(3, -1, -1)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _unit_range(torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1)))


def _unit_range(values: Tensor) -> Tensor:
    if 0 in values.shape:
        raise ValueError(f"Expected an `image` with at least one pixel, got shape {tuple(values.shape)}")
    limits = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
    if values.dtype in limits:
        return values.float() / limits[values.dtype]
    if not values.is_floating_point():
        raise ValueError(f"Expected `image` of dtype bool, uint8, uint16 or floating, got {values.dtype}")
    values = values.float()
    if not torch.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"Expected a floating `image` in [0, 1], got values from {values.min():.4g} to {values.max():.4g}; "
            "divide by the largest value, or pass uint8"
        )
    return values
