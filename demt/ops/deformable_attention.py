"""Multi-scale deformable attention with the tasks' maps as levels: a few learnt points instead of all pixels.

What is computed is spelled out in `demt.ops.reference.deformable_attention_reference`; sampling is `deform_sample`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from demt.ops.deform import deform_sample
from demt.ops.pointwise import per_pixel, stack_tasks


def deformable_attention(
    x: Tensor,
    fused: Tensor,
    query: Sequence[Any],
    key: Sequence[Any],
    value: Sequence[Any],
    out: Sequence[Any],
    heads: int,
) -> Tensor:
    """Attention of every pixel to K points a head in each of T maps: equation 2 of Deformable DETR (Zhu et al., ICLR
    2021), whose levels are the maps of the tasks.

    The values at the points, sampled bilinearly and zero outside the map, are weighted by a softmax over the T·K points
    of a head. In the paper a linear layer of the query gives the points and logits of a fixed number of levels. Here
    they are query(x) + key(f), with f the token of the map at the same pixel: any number of tasks has the same
    parameters, and their order does not matter.

    Args:
        x: Maps whose pixels ask, (B, D, H, W) or of several tasks (B, S, D, H, W).
        fused: Maps that are sampled, (B, T, D, H, W).
        query, key: Layers as `demt.ops.per_pixel` takes them, to heads·K·3 channels: for each point of a head the rows
            and columns from the pixel to it, in pixels, and its logit.
        value, out: Layers to D channels.
        heads: Attention heads, a divisor of D.

    Returns:
        Maps of the shape of `x`.

    Raises:
        ValueError: if `query` and `key` do not give three channels for each point of a head.
    """
    values = per_pixel(fused, *value).contiguous()
    offered = per_pixel(fused, *key)
    asked = per_pixel(x if x.ndim == 5 else x[:, None], *query)
    if offered.shape[2] % (3 * heads) or asked.shape[2] != offered.shape[2]:
        raise ValueError(
            f"Expected `query` and `key` to give heads · points · 3 channels, a multiple of {3 * heads}, "
            f"got {asked.shape[2]} and {offered.shape[2]}"
        )
    attended = stack_tasks(_sum_points(values, each[:, None] + offered, heads) for each in asked.unbind(1))
    return per_pixel(attended if x.ndim == 5 else attended[:, 0], *out)


def points_on_rays(heads: int, points: int) -> Tensor:
    """Initial points in the form that `deformable_attention` takes them, (heads·K·3,), with logits of 0.

    As in Deformable DETR: head m looks in the direction 2π·m / heads (0 is to the right, π / 2 down), point k lies
    k + 1 pixels from the pixel itself, counted along the longer of rows and columns.

    Example:
        >>> points_on_rays(4, 1).view(4, 3)[:, :2].round().abs().tolist()  # right, down, left, up
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.sin(), angle.cos(), torch.zeros(heads)], dim=1)
    direction = direction / direction.abs().amax(1, keepdim=True)
    return (direction[:, None] * torch.arange(1, points + 1)[:, None]).flatten()


def _sum_points(values: Tensor, points: Tensor, heads: int) -> Tensor:
    """Σ weight · sample (B, D, H, W) over the points (B, T, heads·K·3, H, W) of one task's pixels in values
    (B, T, D, H, W).
    """
    tasks = values.shape[1]
    points = points.unflatten(2, (heads, -1, 3))  # (B, T, heads, K, 3, H, W)
    logits = points.select(4, 2).transpose(1, 2).flatten(2, 3)
    weights = logits.softmax(2).unflatten(2, (tasks, -1)).transpose(1, 2)  # (B, T, heads, K, H, W)
    maps = values.flatten(1, 2)
    total: Tensor | None = None
    for point in range(points.shape[3]):
        sampled = deform_sample(maps, points[:, :, :, point, :2].flatten(1, 3)).unflatten(1, (tasks, heads, -1))
        weight = weights[:, :, :, point, None]
        total = sampled * weight if total is None else torch.addcmul(total, sampled, weight)
    assert total is not None
    return total.sum(1).flatten(1, 2)
