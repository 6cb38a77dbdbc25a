"""Images as the input of a model: the one preparation of evaluation, prediction and export."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from demt.config import each_channel
from demt.data.images import ImageLike, grey, read_image
from demt.models import MultiTaskModel


def preprocess(model: MultiTaskModel, image: ImageLike, *, max_size: int | None = None) -> Tensor:
    """An image as the input of a model: (1, in_chans, H, W), normalised, on the model's device and of its dtype.

    Args:
        model: Its `pretrained_cfg` says how images are prepared.
        image: See `read_image`. One channel is repeated; colour becomes grey for models with one channel.
        max_size: Longest side in pixels; larger images are shrunk (antialiased), smaller ones are left. By default
            ``model.pretrained_cfg.max_size``.

    Raises:
        FileNotFoundError, ValueError: for an image that cannot be read, or has other channels than the model.
    """
    return prepare(model, read_image(image), max_size or model.pretrained_cfg.max_size)


def prepare(model: MultiTaskModel, values: Tensor, max_size: int | None) -> Tensor:
    """`preprocess` of an image that `read_image` has read and checked."""
    chans = model.config.in_chans
    if values.shape[0] == 4 and chans == 3:
        values = values[:3] * values[3:] + (1 - values[3:])
    elif values.shape[0] == 1:
        values = values.expand(chans, -1, -1)
    elif chans == 1 and values.shape[0] == 3:
        values = grey(values)
    if values.shape[0] != chans:
        raise ValueError(
            f"Expected `image` with {chans} channels, got {values.shape[0]}; arrays are (H, W, C), tensors (C, H, W)"
        )
    values = shrink(values[None], max_size)
    cfg = each_channel(model.pretrained_cfg, chans)
    mean, std = (torch.tensor(v)[:, None, None] for v in (cfg.mean, cfg.std))
    like = next(model.head.parameters())
    return ((values - mean) / std).to(like.device, like.dtype)


def shrink(images: Tensor, max_size: int | None) -> Tensor:
    """Images (B, C, H, W) with sides of at most `max_size`, antialiased; as they are where they fit, or for None."""
    size = fitted_size(tuple(images.shape[-2:]), max_size)
    if size == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def fitted_size(size: tuple[int, ...], max_size: int | None) -> tuple[int, int]:
    """Height and width of an image of this size, shrunk to sides of at most `max_size`."""
    height, width = size
    if max_size is None or max(height, width) <= max_size:
        return height, width
    scale = max_size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
