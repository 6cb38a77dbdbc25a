"""Errors of depth maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DepthSums(NamedTuple):
    """Sums over labelled pixels, from which all depth errors follow: squared and relative errors, and two counts."""

    squared: Tensor
    relative: Tensor
    close: Tensor
    pixels: Tensor


def depth_sums(
    preds: Tensor, target: Tensor, *, ignore_index: int = 255, dtype: torch.dtype = torch.float64
) -> DepthSums:
    """Add up errors of predicted depths over labelled pixels.

    Args:
        preds: Depths of any shape.
        target: True depths > 0 of the same shape.
        ignore_index: Label of pixels to leave out.
        dtype: In which to add.

    Returns:
        Σ(p−g)², Σ|p−g|/g, the number of pixels with max(p/g, g/p) < 1.25, and the number of pixels.
    """
    valid = target != ignore_index
    p, g = preds[valid].to(dtype), target[valid].to(dtype)
    # Equal to max(p/g, g/p) < 1.25 for positive p; a prediction <= 0 is not close to anything.
    close = (p < 1.25 * g) & (g < 1.25 * p)
    return DepthSums((p - g).square().sum(), ((p - g).abs() / g).sum(), close.sum(), valid.sum())


def depth_errors(sums: DepthSums) -> dict[str, Tensor]:
    """``rmse`` (in the depth's unit), ``abs_rel`` and ``delta1`` (both shares) over all pixels that were summed.

    Example:
        >>> sums = depth_sums(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
        >>> {name: round(value.item(), 4) for name, value in depth_errors(sums).items()}
        {'rmse': 1.4142, 'abs_rel': 0.5, 'delta1': 0.5}
    """
    return {
        "rmse": (sums.squared / sums.pixels).sqrt(),
        "abs_rel": sums.relative / sums.pixels,
        "delta1": sums.close / sums.pixels,
    }
