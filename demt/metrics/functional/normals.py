"""Angles between predicted and true surface normals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from demt.labels import valid_mask


def angular_errors(
    preds: Tensor, target: Tensor, *, ignore_index: int = 255, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Angle at each labelled pixel: ``2·atan2(|p − g|, |p + g|)`` of the unit vectors p and g, in degrees.

    Unlike the arc cosine of p·g this is accurate at small angles, too.

    Args:
        preds: (B, 3, H, W), of any length; a zero vector is 90 degrees off.
        target: (B, 3, H, W). Pixels with a component of `ignore_index`, or all components 0, are left out.
        ignore_index: Label of pixels to leave out.
        dtype: In which to compute. In float32 an angle changes in its last digits with the pixel's place in a batch.

    Returns:
        (N,) angles in [0, 180] of the N labelled pixels.

    Example:
        >>> up, side = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 2.0, 0.0])
        >>> angular_errors(side.view(1, 3, 1, 1), up.view(1, 3, 1, 1))
        tensor([90.], dtype=torch.float64)
    """
    valid = valid_mask(target, ignore_index) & (target != 0).any(1)
    p = F.normalize(preds.movedim(1, -1)[valid].to(dtype), dim=-1)
    g = F.normalize(target.movedim(1, -1)[valid].to(dtype), dim=-1)
    return torch.rad2deg(2 * torch.atan2((p - g).norm(dim=-1), (p + g).norm(dim=-1)))


def median_from_histogram(histogram: Tensor, *, width: float) -> Tensor:
    """Median of values that were counted in bins of equal width from 0 on.

    Returns:
        The middle of the median's bin (the mean of two, for an even count whose middle values lie in two bins): within
        ``width / 2`` of the exact median.

    Example:
        >>> median_from_histogram(torch.tensor([1, 0, 1, 1]), width=10.0)
        tensor(25.)
    """
    below = histogram.cumsum(0)
    count = below[-1]
    ranks = torch.stack([(count - 1) // 2, count // 2])
    bins = torch.searchsorted(below, ranks, right=True)
    return ((bins + 0.5) * width).mean()
