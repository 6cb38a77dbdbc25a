"""Offsets, sampling and channel mixing on matrix products and `grid_sample`'s kernel.

The 3x3 convolution that makes the offsets is a matrix product over the unfolded hidden map. Its rows are scaled and
three columns appended, which meet ones and the coordinates of the pixel centres, so that the product is already the
normalised sampling grid. It is made for a block of rows of the map at a time (forward) or for a few channels at a time
(backward, where the gradient of a channel is summed over all rows), sampled from, and dropped: of the 2G offset
channels only a block ever exists.

Shapes: x (B, C, H, W); hidden (B, 18, H, W); offset_weight (2G, 9, 3, 3); offset_bias (2G); weight (D, C); bias (D).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from demt.ops.gridsample import FAR, chunk_length, compute_dtype, pixel_centres, sample, sample_backward
from demt.ops.linear import linear

TAPS = 81  # 9 channels of a half of the hidden map, 3x3 taps each


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
    generator = _generator(offset_weight, offset_bias, height, width, dtype)
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
    generator = _generator(offset_weight, offset_bias, height, width, dtype)
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
    grad_offset_weight, grad_offset_bias = _split_generator(grad_generator, offset_weight, height, width)
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


def _generator(weight: Tensor, bias: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
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


def _split_generator(grad: Tensor, weight: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Gradients of the convolution's weight and bias from that of `_generator`'s matrices."""
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
    columns[:, -2], columns[:, -1] = (centre[top:bottom] for centre in pixel_centres(hidden, nudge))
    return columns.flatten(2)
