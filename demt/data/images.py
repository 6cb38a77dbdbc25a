"""Images from files, PIL images, arrays and tensors, as one kind of tensor."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageLike: TypeAlias = "str | PathLike[str] | Image.Image | NDArray[Any] | Tensor"


def read_image(image: ImageLike) -> Tensor:
    """An image as float32 (C, H, W) in [0, 1].

    Args:
        image: A file path; a PIL image; an array (H, W) or (H, W, C); or a tensor (C, H, W). Files and PIL images are
            turned upright (EXIF), transparency is laid over white, and C is 3; 16-bit grey keeps its precision.
            Arrays and tensors may be bool, uint8, uint16 or floating in [0, 1].

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is no whole image, or shape, dtype or range do not fit.
    """
    if isinstance(image, (str, PathLike)):
        return _read_file(fspath(image))
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


def _read_file(path: str) -> Tensor:
    try:
        with Image.open(path) as opened:
            opened.load()
            return _from_pil(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"No image at {path!r}") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"{path!r} cannot be read as an image: {error}") from error


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
