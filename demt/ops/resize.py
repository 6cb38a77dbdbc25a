"""Bilinear resizing of maps, the one way it is done everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, h, w) to `size` (H, W), bilinear with ``align_corners=False``; as they are if they have it."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
