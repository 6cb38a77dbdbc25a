"""Deformable sampling on `grid_sample`'s kernel, a few channels at a time.

Torch's bilinear kernel is vectorised and needs no intermediate, but wants normalised coordinates: written out for the
whole map and all channels they are two more maps to store, written in five passes. Here the coordinates of a block of
channels are written in three, sampled from, and overwritten by the next block's. A group of channels that shares an
offset is one image of the kernel's batch.

The 3x3 convolution that makes the offsets is a matrix product over the unfolded hidden map. Its rows are scaled and
three columns appended, which meet ones and the coordinates of the pixel centres, so that the product is already the
normalised sampling grid. It is made for a block of rows of the map at a time (forward) or for a few channels at a time
(backward, where the gradient of a channel is summed over all rows), sampled from, and dropped: of the 2G offset
channels only a block ever exists.

Shapes: x (B, C, H, W); hidden (B, 18, H, W); offset_weight (2G, 9, 3, 3); offset_bias (2G); weight (D, C); bias (D).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from demt.ops.checks import compute_dtype
from demt.ops.pointwise import linear

TAPS = 81  # 9 channels of a half of the hidden map, 3x3 taps each

# Samples whose coordinates are held at a time: 16 MiB in float32. A quarter of that is a tenth faster on idle cores,
# but after every step of a block the threads wait for each other, for milliseconds where other work shares their
# cores. On a GPU a launch costs more than a trip to memory, so there the block may grow.
CHUNK_SAMPLES = {"cpu": 1 << 21}
CHUNK_SAMPLES_ELSEWHERE = 1 << 24

# Normalised coordinates beyond this are outside any map (a map of one pixel ends at 3); finite ones keep inf * 0 away.
FAR = 4.0

# Rounding in the normalised coordinates puts a whole-pixel position on either side of the pixel. The gradient for the
# position jumps there, so in the backward pass positions move right and down by a bit more than the rounding.
NUDGE = 2


def chunk_length(device: torch.device, samples: int) -> int:
    """How many groups of `samples` positions each to sample at a time."""
    return max(1, CHUNK_SAMPLES.get(device.type, CHUNK_SAMPLES_ELSEWHERE) // max(1, samples))


def pixel_centres(like: Tensor, nudge: bool) -> tuple[Tensor, Tensor]:
    """Normalised (H, W) rows and columns of the pixel centres, in `grid_sample`'s `align_corners=False` convention."""
    height, width = like.shape[-2:]
    dtype = compute_dtype(like.dtype)
    shift = NUDGE * torch.finfo(dtype).eps if nudge else 0.0
    rows, cols = (
        torch.arange(1 - size, size + 1, 2, device=like.device, dtype=dtype) / size + shift for size in (height, width)
    )
    return rows[:, None].repeat(1, width), cols.repeat(height, 1)


def sample(x: Tensor, grid: Tensor) -> Tensor:
    """Sample x (N, K, H, W) at the planar normalised grid (N, 2, H, W) of columns and rows."""
    x, grid = _spread(x, grid)
    return torch.grid_sampler_2d(x, grid.permute(0, 2, 3, 1), 0, 0, False).flatten(0, 1)


def sample_backward(grad: Tensor, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `sample` for x (as (N * K, H, W)) and for the grid's columns and rows (N, H, W, 2)."""
    groups = grid.shape[0]
    x, grid = _spread(x, grid)
    grad_x, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
        grad.reshape(x.shape), x, grid.permute(0, 2, 3, 1), 0, 0, False, [True, True]
    )
    if grad_grid.shape[0] != groups:
        grad_grid = grad_grid.unflatten(0, (groups, -1)).sum(1)
    return grad_x.flatten(0, 1), grad_grid


def _spread(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Few groups of many channels become more groups of fewer: the kernel runs one thread per group."""
    groups, channels = x.shape[:2]
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    parts = next((n for n in range(1, channels + 1) if channels % n == 0 and n * groups >= threads), 1)
    if parts == 1:
        return x, grid
    return x.reshape(groups * parts, channels // parts, *x.shape[2:]), grid.repeat_interleave(parts, dim=0)


def deform_sample_forward(x: Tensor, offset: Tensor) -> Tensor:
    """`demt.ops.deform_sample` of validated arguments."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return y
    per_group = 2 * x.shape[1] // offset.shape[1]
    out = y.flatten(0, 1)
    for start, stop, chunk, grid in _chunks(x, offset, nudge=False):
        out[start * per_group : stop * per_group] = sample(chunk, grid)
    return y


def deform_sample_backward(grad: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `deform_sample_forward` for `x` and `offset`."""
    height, width = x.shape[-2:]
    grad_x, grad_offset = (torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, offset))
    if x.numel() == 0:
        return grad_x, grad_offset.zero_()
    grad = grad.contiguous().flatten(0, 1)
    out_x, out_offset = grad_x.flatten(0, 1), grad_offset.reshape(-1, 2, height, width)
    per_group = 2 * x.shape[1] // offset.shape[1]
    for start, stop, chunk, grid in _chunks(x, offset, nudge=True):
        rows = slice(start * per_group, stop * per_group)
        out_x[rows], grad_grid = sample_backward(grad[rows].to(chunk.dtype), chunk, grid)
        out_offset[start:stop, 0] = grad_grid[..., 1].mul_(2 / height)
        out_offset[start:stop, 1] = grad_grid[..., 0].mul_(2 / width)
        del grad_grid  # before the next block's is made
    return grad_x, grad_offset


def _chunks(x: Tensor, offset: Tensor, nudge: bool) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Slices of the (image, group) pairs: start, stop, their channels (n, K, H, W) and grid (n, 2, H, W)."""
    height, width = x.shape[-2:]
    offsets = offset.contiguous().reshape(-1, 2, height, width)
    groups = x.contiguous().reshape(offsets.shape[0], -1, height, width)
    dtype = compute_dtype(x.dtype)
    rows, cols = pixel_centres(x, nudge)
    length = min(chunk_length(x.device, height * width), len(groups))
    buffer = torch.empty(length, 2, height, width, dtype=dtype, device=x.device)
    for start in range(0, len(groups), length):
        stop = min(start + length, len(groups))
        grid = buffer[: stop - start]
        dy, dx = offsets[start:stop].to(dtype).unbind(1)
        torch.add(cols, dx, alpha=2 / width, out=grid[:, 0])
        torch.add(rows, dy, alpha=2 / height, out=grid[:, 1])
        yield start, stop, groups[start:stop].to(dtype), grid.clamp_(-FAR, FAR)


def deform_mix_forward(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`demt.ops.deform_mix` of validated arguments."""
    batch, channels, height, width = x.shape
    groups = offset_weight.shape[0] // 2
    dtype = compute_dtype(x.dtype)
    out = x.new_empty(batch, weight.shape[0], height * width)
    if out.numel() == 0 or channels == 0:
        return out.unflatten(2, (height, width)) + bias[:, None, None]
    generator = generator_matrices(offset_weight, offset_bias, height, width, dtype)
    weight, bias = weight.to(dtype), bias.to(dtype)
    rows = min(height, chunk_length(x.device, channels * width))
    for image in range(batch):
        maps = x[image].to(dtype).reshape(groups, -1, height, width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            sampled = _sample_rows(maps, hidden[image].to(dtype), generator, top, bottom)
            out[image, :, top * width : bottom * width] = linear(weight, sampled.mT).add_(bias[:, None])
            del sampled  # before the next block's is made
    return out.unflatten(2, (height, width))


def deform_mix_backward(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    offset_weight: Tensor,
    offset_bias: Tensor,
    weight: Tensor,
    need_sampling: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, hidden, offset_weight, offset_bias (zero unless `need_sampling`) and weight (`need_weight`).

    Samples are computed again rather than kept: between the passes nothing but the arguments is held.
    """
    batch, channels, height, width = x.shape
    groups = offset_weight.shape[0] // 2
    dtype = compute_dtype(x.dtype)
    grad_x, grad_hidden = (torch.zeros_like(each, memory_format=torch.contiguous_format) for each in (x, hidden))
    if grad.numel() == 0 or x.numel() == 0:
        zeros = torch.zeros_like
        return grad_x, grad_hidden, zeros(offset_weight), zeros(offset_bias), zeros(weight)
    grad_weight = torch.zeros(weight.shape, dtype=dtype, device=x.device)
    generator = generator_matrices(offset_weight, offset_bias, height, width, dtype)
    grad_generator = torch.zeros_like(generator)
    mixing = weight.to(dtype)
    per_half, per_group = groups // len(generator), channels // groups
    length = min(per_half, chunk_length(x.device, height * width))
    for image in range(batch):
        columns = _columns(hidden[image].to(dtype), len(generator), 0, height, nudge=True)
        grad_columns = torch.zeros_like(columns)
        grad_out = grad[image].to(dtype).flatten(1)
        # A chunk never straddles the two halves of the hidden map.
        for half, start in itertools.product(range(len(generator)), range(0, per_half, length)):
            stop = min(start + length, per_half)
            rows = slice(2 * start, 2 * stop)
            channel = slice((half * per_half + start) * per_group, (half * per_half + stop) * per_group)
            grid = linear(generator[half, rows], columns[half].mT).clamp_(-FAR, FAR).view(-1, 2, height, width)
            maps = x[image, channel].to(dtype).reshape(-1, per_group, height, width)
            if need_weight:
                grad_weight[:, channel] += linear(grad_out, sample(maps, grid).flatten(1))
            if need_sampling:
                grad_sampled = linear(mixing[:, channel].mT, grad_out.mT)
                grad_x[image, channel], grad_grid = sample_backward(grad_sampled, maps, grid)
                grad_grid = grad_grid.permute(0, 3, 1, 2).reshape(-1, height * width)
                grad_generator[half, rows] += linear(grad_grid, columns[half])
                grad_columns[half] += linear(generator[half, rows].mT, grad_grid.mT)
        if need_sampling:
            grad_hidden[image] = F.fold(grad_columns[:, :-3].flatten(0, 1), (height, width), 3, padding=1)
    grad_offset_weight, grad_offset_bias = split_generator(grad_generator, offset_weight, height, width)
    return grad_x, grad_hidden, grad_offset_weight, grad_offset_bias, grad_weight.to(weight.dtype)


def _sample_rows(maps: Tensor, hidden: Tensor, generator: Tensor, top: int, bottom: int) -> Tensor:
    """Samples (C, pixels) for the rows top..bottom-1 of one image; the grid is gone when this returns."""
    columns = _columns(hidden, len(generator), top, bottom)
    sampled = []
    for matrix, each, part in zip(generator, columns, maps.chunk(len(generator))):
        grid = linear(matrix, each.mT).clamp_(-FAR, FAR)
        sampled.append(sample(part, grid.view(len(part), 2, bottom - top, -1)).flatten(1))
        del grid  # before the next half's is made
    return torch.cat(sampled)


def generator_matrices(weight: Tensor, bias: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """The offset convolution as matrices (halves, 2G / halves, K + 3): for every offset group a row for the grid's
    column, then one for its row. With an odd G one group reads both halves of the hidden map, so there is one matrix.
    """
    groups = weight.shape[0] // 2
    taps = weight.to(dtype).reshape(2 * groups, TAPS)
    if groups % 2:
        taps = torch.cat([F.pad(taps[:groups], (0, TAPS)), F.pad(taps[groups:], (TAPS, 0))])
    scale = taps.new_tensor([2 / height, 2 / width])[:, None]
    taps = taps.reshape(groups, 2, -1) * scale
    constant = bias.to(dtype).reshape(groups, 2, 1) * scale
    centres = torch.eye(2, dtype=dtype, device=taps.device).expand(groups, 2, 2)
    matrices = torch.cat([taps, constant, centres], -1).flip(1)
    return matrices.reshape(1 if groups % 2 else 2, -1, matrices.shape[-1])


def split_generator(grad: Tensor, weight: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Gradients of the convolution's weight and bias from that of `generator_matrices`'s matrices."""
    groups = weight.shape[0] // 2
    scale = grad.new_tensor([2 / height, 2 / width])[:, None]
    pixels = (grad.reshape(groups, 2, -1).flip(1) * scale).reshape(2 * groups, -1)
    taps = pixels[:, :-3]
    if groups % 2:
        taps = torch.cat([taps[:groups, :TAPS], taps[groups:, TAPS:]])
    # Copies: torch wants no two results of an operator in one storage.
    return taps.reshape(weight.shape).to(weight.dtype, copy=True), pixels[:, -3].to(weight.dtype, copy=True)


def _columns(hidden: Tensor, halves: int, top: int, bottom: int, nudge: bool = False) -> Tensor:
    """What the generator multiplies for the rows top..bottom-1 of the map: (halves, K + 3, pixels)."""
    channels, height, width = hidden.shape
    block = F.pad(hidden[:, max(0, top - 1) : bottom + 1], (1, 1, int(top == 0), int(bottom == height)))
    taps = block.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 3, 4, 1, 2).unflatten(0, (halves, -1))
    columns = hidden.new_empty(halves, 9 * channels // halves + 3, bottom - top, width)
    columns[:, :-3].view(taps.shape).copy_(taps)
    columns[:, -3] = 1
    rows, cols = pixel_centres(hidden, nudge)
    columns[:, -2], columns[:, -1] = rows[top:bottom], cols[top:bottom]
    return columns.flatten(2)
