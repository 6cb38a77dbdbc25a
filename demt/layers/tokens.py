"""Views of maps with channels last, where per-pixel layers work, and back. No copies."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def channels_last(maps: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C), task-stacked (B, T, C, H, W) to (B, H, W, T, C): a pixel's tokens lie together."""
    return maps.movedim(-3, -1) if maps.ndim == 4 else maps.permute(0, 3, 4, 1, 2)


def channels_first(maps: Tensor) -> Tensor:
    """Inverse of `channels_last`."""
    return maps.movedim(-1, -3) if maps.ndim == 4 else maps.permute(0, 3, 4, 1, 2)


def stack_tasks(maps: Iterable[Tensor]) -> Tensor:
    """Maps (B, C, H, W) of T tasks to (B, T, C, H, W), laid out in memory as `channels_last` views them."""
    return channels_first(torch.stack([channels_last(each) for each in maps], dim=3))
