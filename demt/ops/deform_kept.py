"""`demt.ops.deform_mix` for training steps on maps that fit: all images at once, and what was sampled is kept.

The operator in `demt.ops.grid_sample` holds nothing between the passes: it computes grid and samples twice, and takes
one image after the other. On small maps that time and those calls cost more than the memory is worth.

Shapes: x (B, C, H, W); hidden (B, 18, H, W); offset_weight (2G, 9, 3, 3); offset_bias (2G); weight (D, C); bias (D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from demt.ops.grid_sample import FAR, NUDGE, generator_matrices, pixel_centres, sample, sample_backward, split_generator
from demt.ops.pointwise import linear
from demt.ops.taps import by_channel, neighbours, sum_of_neighbours

#: Numbers that one call may keep for its backward pass: 64 MiB in float32.
KEPT = 1 << 24


def fits(x: Tensor, hidden: Tensor, offset_weight: Tensor) -> bool:
    """Whether grid, samples and neighbours are few enough to keep."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return 0 < pixels * (offset_weight.shape[0] + x.shape[1] + 9 * hidden.shape[1]) <= KEPT


class KeptDeformMix(torch.autograd.Function):
    """`deform_mix` of validated arguments, all of one type, float32 or float64; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        maps = by_channel(x)
        size = maps.shape[1:]
        generator = _planes_first(generator_matrices(offset_weight, offset_bias, size[1], size[2], x.dtype))
        columns = _columns(hidden, len(generator))
        grids = [linear(matrix, each.mT).clamp_(-FAR, FAR) for matrix, each in zip(generator, columns)]
        halves = maps.chunk(len(generator))
        sampled = (sample(_by_group(half, grid), _by_sample(grid, size)) for half, grid in zip(halves, grids))
        samples = torch.cat([_by_channel(each, grid, size) for each, grid in zip(sampled, grids)])
        for grid in grids:  # as the backward pass wants them
            grid += NUDGE * torch.finfo(grid.dtype).eps
        ctx.save_for_backward(maps, samples, columns, generator, offset_weight, weight, *grids)
        return linear(weight, samples.mT).add_(bias[:, None]).view(-1, *size).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, samples, columns, generator, offset_weight, weight, *grids = ctx.saved_tensors
        size = maps.shape[1:]
        grad = by_channel(grad).flatten(1)
        grad_weight = linear(grad, samples) if ctx.needs_input_grad[4] else None
        grad_bias = grad.sum(1) if ctx.needs_input_grad[5] else None
        if not any(ctx.needs_input_grad[:4]):
            return None, None, None, None, grad_weight, grad_bias
        grad_samples = linear(weight.mT, grad.mT).view_as(maps)
        grad_x, grad_hidden, grad_generator = [], [], []
        for i, grid in enumerate(grids):
            half, grad_half = (_by_group(each.chunk(len(grids))[i], grid) for each in (maps, grad_samples))
            grad_part, grad_grid = sample_backward(grad_half, half, _by_sample(grid, size))
            grad_x.append(_by_channel(grad_part, grid, size))
            grad_grid = grad_grid.permute(3, 0, 1, 2).reshape(grid.shape)
            grad_generator.append(linear(grad_grid, columns[i]))
            grad_taps = linear(generator[i, :, :-3].mT.contiguous(), grad_grid.mT)
            grad_hidden.append(sum_of_neighbours(grad_taps.view(-1, *size)))
        grad_offsets = split_generator(_planes_last(torch.stack(grad_generator)), offset_weight, *size[1:])
        grad_maps = torch.cat(grad_x).view_as(maps)
        return (
            grad_maps.transpose(0, 1),
            torch.cat(grad_hidden).transpose(0, 1),
            *grad_offsets,
            grad_weight,
            grad_bias,
        )


def _columns(hidden: Tensor, halves: int) -> Tensor:
    """What the generator multiplies, for all pixels of all images: (halves, K + 3, B·H·W)."""
    batch, channels, height, width = hidden.shape
    columns = hidden.new_empty(halves, 9 * channels // halves + 3, batch, height, width)
    for half, maps in zip(columns, hidden.transpose(0, 1).chunk(halves)):
        neighbours(maps, out=half[:-3])
    columns[:, -3] = 1
    for i, centres in enumerate(pixel_centres(hidden, nudge=False)):
        columns[:, i - 2] = centres
    return columns.flatten(2)


def _planes_first(matrices: Tensor) -> Tensor:
    """From a column's and a row's entry for every group to all groups' columns, then all their rows."""
    return matrices.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


def _planes_last(matrices: Tensor) -> Tensor:
    return matrices.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _by_sample(grid: Tensor, size: torch.Size) -> Tensor:
    """(2·G, B·H·W) as (G·B, 2, H, W)."""
    return grid.view(2, -1, *size[1:]).transpose(0, 1)


def _by_group(maps: Tensor, grid: Tensor) -> Tensor:
    """(C, B, H, W) as (G·B, C / G, H, W)."""
    return maps.unflatten(0, (len(grid) // 2, -1)).transpose(1, 2).flatten(0, 1)


def _by_channel(maps: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
    """(G·B·C / G, H, W) as (C, B·H·W)."""
    return maps.view(len(grid) // 2, size[0], -1, size[1] * size[2]).transpose(1, 2).flatten(0, 1).flatten(1)
