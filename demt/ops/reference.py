"""The operators written out, one line per formula: slow, short, and what every faster path is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def deform_sample_reference(x: Tensor, offset: Tensor) -> Tensor:
    """Sample every channel at its own, per-pixel displaced position, from the four corners of the formula.

    Shapes, units and meaning are those of `demt.ops.deform_sample`; memory is about 20 maps of `x`'s size.
    A NaN offset gives NaN.

    Example:
        >>> x = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> half_a_pixel_right = torch.tensor([0.0, 0.5]).reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
        >>> deform_sample_reference(x, half_a_pixel_right)[0, 0].tolist()
        [[0.5, 1.5, 1.0], [3.5, 4.5, 2.5]]
    """
    batch, channels, height, width = x.shape
    groups = offset.shape[1] // 2
    dy, dx = offset.reshape(batch, groups, 2, height, width).repeat_interleave(channels // groups, dim=1).unbind(2)
    rows = torch.arange(height, device=x.device, dtype=offset.dtype).reshape(height, 1)
    cols = torch.arange(width, device=x.device, dtype=offset.dtype)
    # Everything beyond two pixels outside samples zero; the clamp keeps infinity out of the weights.
    py, px = (rows + dy).clamp(-2, height + 1), (cols + dx).clamp(-2, width + 1)
    top, left = py.floor(), px.floor()
    y = torch.zeros_like(py)
    for row, row_weight in ((top, 1 - (py - top)), (top + 1, py - top)):
        for col, col_weight in ((left, 1 - (px - left)), (left + 1, px - left)):
            inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
            index = torch.where(inside, row * width + col, 0).long().reshape(batch, channels, -1)
            corner = x.reshape(batch, channels, -1).gather(2, index).reshape(x.shape)
            y = y + row_weight * col_weight * torch.where(inside, corner, 0)
    return y.to(x.dtype)


def deform_mix_reference(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Convolve the hidden map to offsets, sample `x` there, mix the channels; see `demt.ops.deform_mix`."""
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    return F.conv2d(deform_sample_reference(x, offset), weight[:, :, None, None], bias)


def per_pixel_reference(maps: Tensor, *layers: Any, residual: Tensor | None = None) -> Tensor:
    """Apply layers one after the other, over the channels of maps (…, D, H, W); see `demt.ops.per_pixel`."""
    for layer in layers:
        on_maps = isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm)) or not isinstance(layer, nn.Module)
        maps = layer(maps) if on_maps else layer(maps.movedim(-3, -1)).movedim(-1, -3)
    return maps if residual is None else residual + maps


def attention_reference(
    x: Tensor,
    fused: Tensor,
    query: Sequence[Any],
    key: Sequence[Any],
    value: Sequence[Any],
    out: Sequence[Any],
    heads: int,
    attention: Literal["pixelwise", "linear", "global"],
) -> Tensor:
    """Multi-head attention of x (B, D, H, W) to fused (B, T, D, H, W); see `demt.ops.attention`.

    softmax(Q Kᵀ / √d) V over the T tokens of each pixel (``"pixelwise"``) or all T·H·W (``"global"``), or without
    softmax Q (Kᵀ V) / √d over all of them (``"linear"``).
    """
    q = per_pixel_reference(x, *query)
    k, v = (per_pixel_reference(fused, *layers) for layers in (key, value))
    scale = (q.shape[1] // heads) ** -0.5
    if attention == "pixelwise":
        q = rearrange(q, "b (n d) h w -> b h w n 1 d", n=heads)
        k, v = (rearrange(each, "b t (n d) h w -> b h w n t d", n=heads) for each in (k, v))
        attended = rearrange((q @ k.mT * scale).softmax(-1) @ v, "b h w n 1 d -> b (n d) h w")
    else:
        height = q.shape[2]
        q = rearrange(q, "b (n d) h w -> b n (h w) d", n=heads)
        k, v = (rearrange(each, "b t (n d) h w -> b n (t h w) d", n=heads) for each in (k, v))
        attended = q @ (k.mT @ v * scale) if attention == "linear" else (q @ k.mT * scale).softmax(-1) @ v
        attended = rearrange(attended, "b n (h w) d -> b (n d) h w", h=height)
    return per_pixel_reference(attended, *out)


def interact_and_query_reference(
    maps: Sequence[Tensor], interaction: Sequence[Any], queries: Sequence[Any], heads: int
) -> list[Tensor]:
    """F = the interaction's layers on all maps; x + norm(attention of x to F) for each; see `demt.ops.interact`."""
    fused = torch.stack([per_pixel_reference(x, *interaction) for x in maps], dim=1)
    return [
        per_pixel_reference(attention_reference(x, fused, q, k, v, out, heads, "pixelwise"), norm, residual=x)
        for x, (q, k, v, out, norm) in zip(maps, queries)
    ]


def window_attention_reference(
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
    """Global attention of every window alone, cut out of the maps; see `demt.ops.window_attention`."""

    def cuts(size: int) -> list[slice]:
        edges = [0, *range(shift or window, size, window), size]
        return [slice(start, stop) for start, stop in itertools.pairwise(edges)]

    def attend(asking: Tensor) -> Tensor:
        bands = []
        for rows in cuts(x.shape[-2]):
            cells = [(rows, columns) for columns in cuts(x.shape[-1])]
            parts = [
                attention_reference(asking[..., i, j], fused[..., i, j], query, key, value, out, heads, "global")
                for i, j in cells
            ]
            bands.append(torch.cat(parts, dim=-1))
        return torch.cat(bands, dim=-2)

    return attend(x) if x.ndim == 4 else torch.stack([attend(asking) for asking in x.unbind(1)], dim=1)


def deformable_attention_reference(
    x: Tensor,
    fused: Tensor,
    query: Sequence[Any],
    key: Sequence[Any],
    value: Sequence[Any],
    out: Sequence[Any],
    heads: int,
) -> Tensor:
    """Every head, task and point in turn; see `demt.ops.deformable_attention`."""

    def attend(asking: Tensor) -> Tensor:
        q, k, v = (
            per_pixel_reference(maps, *layers) for maps, layers in ((asking, query), (fused, key), (fused, value))
        )
        results = []
        for q_head, k_head, v_head in zip(q.chunk(heads, 1), k.chunk(heads, 2), v.chunk(heads, 2)):
            samples, logits = [], []
            for task in range(fused.shape[1]):
                for point in (q_head + k_head[:, task]).split(3, dim=1):
                    samples.append(deform_sample_reference(v_head[:, task], point[:, :2]))
                    logits.append(point[:, 2:])
            weights = torch.stack(logits).exp() / torch.stack(logits).exp().sum(0)
            results.append((weights * torch.stack(samples)).sum(0))
        return per_pixel_reference(torch.cat(results, dim=1), *out)

    return attend(x) if x.ndim == 4 else torch.stack([attend(asking) for asking in x.unbind(1)], dim=1)


def project_levels_reference(levels: Sequence[Tensor], layer: nn.Module) -> Tensor:
    """A linear layer over the concatenated levels, all upsampled to the first; see `demt.ops.project_levels`."""
    return per_pixel_reference(_concatenated(levels), layer)


def convolve_levels_reference(levels: Sequence[Tensor], layer: Any) -> Tensor:
    """A p×p convolution of stride p over the same, zero-padded to whole patches; see `demt.ops.convolve_levels`."""
    joined, (down, across) = _concatenated(levels), layer.stride
    return layer(F.pad(joined, (0, -joined.shape[-1] % across, 0, -joined.shape[-2] % down)))


def _concatenated(levels: Sequence[Tensor]) -> Tensor:
    size = levels[0].shape[-2:]
    return torch.cat([F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels], dim=1)


def narrow_convolution_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3×3 convolution of padding 1; see `demt.ops.narrow_convolution`."""
    return F.conv2d(x, weight, bias, padding=1)
