"""The operators in torch's own, for graphs that run without this package (see `demt.export`).

One `grid_sample` whose coordinates come out of the offset convolution ready to use. Unlike the fast paths this holds
all offsets at once; unlike the reference it is fast in other runtimes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from demt.ops.checks import compute_dtype
from demt.ops.grid_sample import FAR
from demt.ops.runtime import standard_operators as standard_operators


def deform_sample_standard(x: Tensor, offset: Tensor) -> Tensor:
    """`demt.ops.deform_sample` of validated arguments."""
    batch, _, height, width = x.shape
    groups = offset.shape[1] // 2
    pairs = offset.to(compute_dtype(x.dtype)).reshape(batch * groups, 2, height, width).flip(1)
    return _sample(x, pairs * _scale(pairs)[:, None, None])


def deform_mix_standard(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`demt.ops.deform_mix` of validated arguments."""
    batch, _, height, width = x.shape
    dtype = compute_dtype(x.dtype)
    groups = offset_weight.shape[0] // 2
    hidden = hidden.to(dtype)
    # Columns come first where a change of the weights alone makes it so. With an odd number of groups, one pair's rows
    # come from one half of the hidden map, its columns from the other. Scaling the weights too would save a pass over
    # the offsets, but weights that depend on the image's size cannot be quantised.
    into_grid, constant, first = offset_weight.to(dtype), offset_bias.to(dtype), groups % 2 == 0
    if first:
        into_grid = into_grid.reshape(groups, 2, 9, 3, 3).flip(1).flatten(0, 1)
        constant = constant.reshape(groups, 2).flip(1).flatten()
    offset = F.conv2d(hidden, into_grid, constant, padding=1, groups=2)
    offset = offset.reshape(batch * groups, 2, height, width)
    sampled = _sample(x, (offset if first else offset.flip(1)) * _scale(offset)[:, None, None])
    return F.conv2d(sampled, weight[:, :, None, None], bias)


def _scale(maps: Tensor) -> Tensor:
    """From pixels to normalised coordinates: columns, then rows."""
    height, width = maps.shape[-2:]
    return torch.stack([maps.new_full((), 2 / side) for side in (width, height)])


def _sample(x: Tensor, offset: Tensor) -> Tensor:
    """Sample x (B, C, H, W) at normalised displacements (B * G, 2, H, W) of columns and rows."""
    height, width = x.shape[-2:]
    columns, rows = (
        torch.arange(1 - side, side + 1, 2, device=x.device, dtype=offset.dtype) / side for side in (width, height)
    )
    centres = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])
    grid = (offset + centres).clamp(-FAR, FAR).permute(0, 2, 3, 1)
    groups = x.reshape(grid.shape[0], -1, height, width).to(grid.dtype)
    return F.grid_sample(groups, grid, align_corners=False).reshape(x.shape).to(x.dtype)
