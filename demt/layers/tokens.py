"""Views of maps with channels last, where per-pixel layers work, and back. No copies."""

from __future__ import annotations

from torch import Tensor


def channels_last(maps: Tensor) -> Tensor:
    """(..., C, H, W) to (..., H, W, C)."""
    return maps.movedim(-3, -1)


def channels_first(maps: Tensor) -> Tensor:
    """(..., H, W, C) to (..., C, H, W)."""
    return maps.movedim(-1, -3)
