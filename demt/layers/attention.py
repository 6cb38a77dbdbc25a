"""Kinds of attention that blocks share: for each name its function, and the layers that it needs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from demt.ops import (
    deformable_attention,
    global_attention,
    linear_attention,
    pixel_attention,
    points_on_rays,
    window_attention,
)
from demt.ops.checks import check_positive

ATTENTIONS: dict[str, Callable[..., Tensor]] = {
    "pixelwise": pixel_attention,
    "linear": linear_attention,
    "global": global_attention,
    "window": window_attention,
    "deformable": deformable_attention,
}


def attention_function(attention: str, heads: int, *, window: int, shift: int) -> Callable[..., Tensor]:
    """A function of x, fused, and the query, key, value and output layers.

    Raises:
        ValueError: for a `window` below 1, or a `shift` that is not from 0 to `window` - 1.
    """
    check_positive(window=window)
    if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < window:
        raise ValueError(f"Expected `shift` to be an integer from 0 to {window - 1}, below `window`, got {shift!r}")
    options = {"window": window, "shift": shift} if attention == "window" else {}
    return functools.partial(ATTENTIONS[attention], heads=heads, **options)


def query_and_key(
    attention: str, channels: int, heads: int, points: int, *, bias: bool = True
) -> tuple[nn.Linear, nn.Linear]:
    """Layers whose product is a score, or for ``"deformable"`` whose sum is `points` points per head.

    The key has no bias: it would add the same to all scores of a query, and softmax cancel it. Deformable attention
    begins as in Deformable DETR: no weights, and a bias that puts points on rays around the pixel with equal weights.

    Raises:
        ValueError: for `points` below 1.
    """
    check_positive(points=points)
    if attention != "deformable":
        return nn.Linear(channels, channels, bias=bias), nn.Linear(channels, channels, bias=False)
    query, key = nn.Linear(channels, 3 * heads * points), nn.Linear(channels, 3 * heads * points, bias=False)
    nn.init.zeros_(query.weight)
    nn.init.zeros_(key.weight)
    with torch.no_grad():
        query.bias.copy_(points_on_rays(heads, points))
    return query, key
