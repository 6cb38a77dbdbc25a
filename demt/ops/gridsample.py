"""Deformable sampling on `grid_sample`'s kernel, a few channels at a time.

Torch's bilinear kernel is vectorised and needs no intermediate, but wants normalised coordinates: written out for the
whole map and all channels they are two more maps to store, written in five passes. Here the coordinates of a block of
channels are written in three, sampled from, and overwritten by the next block's. A group of channels that shares an
offset is one image of the kernel's batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

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


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type coordinates and weights are computed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


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
