"""Bilinear resizing of maps, the one way it is done everywhere, and sizes that may be symbols of a graph capture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, h, w) to `size` (H, W), bilinear with ``align_corners=False``; as they are if they have it."""
    sides = (*maps.shape[-2:], *size)
    # Whether symbols are equal must not be asked: the answer would become a condition on the image's size.
    if not is_symbolic(*sides) and sides[:2] == sides[2:]:
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def is_symbolic(*sizes: Any) -> bool:
    """Whether one of the sizes is left open in a graph that is being captured."""
    return any(isinstance(size, torch.SymInt) for size in sizes)


def ceil_div(size: int, step: int) -> int:
    """Steps that cover `size`. So written, symbols of nested sizes simplify, unlike with ``-(-size // step)``."""
    return (size + step - 1) // step


def missing(size: int, multiple: int) -> int:
    """How much `size` lacks to the next multiple."""
    return ceil_div(size, multiple) * multiple - size
