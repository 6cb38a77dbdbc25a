"""Softmax attention inside windows of the map, over all tasks' tokens: the same cost for every pixel.

The map is padded to whole windows and every window is one image of torch's attention, which never holds the scores;
padding is masked. What is computed is spelled out in `demt.ops.reference.window_attention_reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from demt.ops.pointwise import channels_first, channels_last, per_pixel
from demt.ops.resize import ceil_div, is_symbolic


def window_attention(
    x: Tensor,
    fused: Tensor,
    query: Sequence[Any],
    key: Sequence[Any],
    value: Sequence[Any],
    out: Sequence[Any],
    heads: int,
    *,
    window: int,
    shift: int = 0,
) -> Tensor:
    """Softmax attention of every pixel to the tokens of all T maps in its window.

    Rows and columns are cut at `shift`, `shift` + `window`, `shift` + 2·`window`…, so windows at the edges may be
    smaller. This is Swin's shifted window (Liu et al., ICCV 2021) without its position bias; Swin joins the smaller
    windows of opposite edges in one and masks them from each other, here each is padded.

    Args:
        x: Maps whose pixels ask, (B, D, H, W) or of several tasks (B, S, D, H, W).
        fused: Maps whose pixels are asked, (B, T, D, H, W).
        query, key, value, out: Layers as `demt.ops.per_pixel` takes them, all to D channels.
        heads: Attention heads, a divisor of D.
        window: Side of a window in pixels.
        shift: Where the first cut is, from 0 to `window` - 1.

    Returns:
        Maps of the shape of `x`.

    Raises:
        ValueError: for a `shift` that is not from 0 to `window` - 1.
    """
    if not 0 <= shift < window:
        raise ValueError(f"Expected `shift` from 0 to `window` - 1, got shift={shift}, window={window}")
    sides = [_cut(size, window, shift) for size in x.shape[-2:]]
    asking = x if x.ndim == 5 else x[:, None]
    q, k, v = (
        _to_windows(per_pixel(maps, *layers), sides, heads)
        for maps, layers in ((asking, query), (fused, key), (fused, value))
    )
    mask = (
        None if all(side.is_whole for side in sides) else _real_tokens(sides, fused.shape[0], fused.shape[1], x.device)
    )
    attended = _from_windows(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), sides, asking.shape[1])
    return per_pixel(attended if x.ndim == 5 else attended[:, 0], *out)


class _Side(NamedTuple):
    """How rows (or columns) are cut: `windows` windows of `length`, the first of which begins `before` the map."""

    size: int
    length: int
    windows: int
    before: int

    @property
    def after(self) -> int:
        return self.windows * self.length - self.size - self.before

    @property
    def is_whole(self) -> bool:
        """Whether it is sure that there is no padding. Sizes left open in a graph must not be asked."""
        return not is_symbolic(self.size) and self.size == self.windows * self.length


def _cut(size: int, window: int, shift: int) -> _Side:
    if not is_symbolic(size):
        # No window need be larger than the largest that is there.
        shift = shift if shift < size else 0
        window = min(window, max(shift, size - shift))
        shift %= window
    before = window - shift if shift else 0
    return _Side(size, window, ceil_div(size + before, window), before)


def _to_windows(maps: Tensor, sides: Sequence[_Side], heads: int) -> Tensor:
    """Maps (B, T, D, H, W) to tokens (B·windows, heads, tokens of a window, D / heads)."""
    rows, columns = sides
    tokens = F.pad(channels_last(maps), (0, 0, 0, 0, columns.before, columns.after, rows.before, rows.after))
    tokens = tokens.unflatten(2, (columns.windows, columns.length)).unflatten(1, (rows.windows, rows.length))
    return rearrange(tokens, "b i h j w t (n d) -> (b i j) n (h w t) d", n=heads)


def _from_windows(tokens: Tensor, sides: Sequence[_Side], tasks: int) -> Tensor:
    """Inverse of `_to_windows`, without the padding."""
    rows, columns = sides
    tokens = tokens.unflatten(2, (rows.length, columns.length, tasks)).unflatten(0, (-1, rows.windows, columns.windows))
    maps = channels_first(rearrange(tokens, "b i j n h w t d -> b (i h) (j w) t (n d)"))
    return maps.narrow(-2, rows.before, rows.size).narrow(-1, columns.before, columns.size)


def _real_tokens(sides: Sequence[_Side], batch: int, tasks: int, device: torch.device) -> Tensor:
    """Which tokens of the windows are pixels of the map: (B·windows, 1, 1, tokens of a window)."""
    positions = (torch.arange(side.windows * side.length, device=device) - side.before for side in sides)
    rows, columns = (
        ((each >= 0) & (each < side.size)).unflatten(0, (side.windows, side.length))
        for each, side in zip(positions, sides)
    )
    real = rows[:, None, :, None] & columns[None, :, None, :]  # (rows, columns, length, length)
    return real.flatten(2).repeat_interleave(tasks, -1).flatten(0, 1).repeat(batch, 1)[:, None, None]
