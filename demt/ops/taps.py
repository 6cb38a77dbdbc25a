"""3×3 convolutions of padding 1 as products of matrices, for training on a CPU: less copying than a convolution does.

Maps are held channel by channel, (C, B, H, W): all pixels of a batch are then the columns of one matrix.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from demt.ops.pointwise import linear


def neighbours(maps: Tensor, out: Tensor | None = None) -> Tensor:
    """The 3×3 neighbours of every pixel, in order, zero outside: (C, B, H, W) to (C·9, B, H, W), in `out` if given."""
    taps = F.pad(maps, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 4, 5, 1, 2, 3)
    out = maps.new_empty(9 * len(maps), *maps.shape[1:]) if out is None else out
    out.view(taps.shape).copy_(taps)
    return out


def sum_of_neighbours(taps: Tensor) -> Tensor:
    """Adjoint of `neighbours`: (C·9, B, H, W) to (C, B, H, W)."""
    taps = taps.unflatten(0, (-1, 9))
    height, width = taps.shape[-2:]
    total = taps.new_zeros(len(taps), taps.shape[2], height + 2, width + 2)
    for tap, (down, right) in enumerate(itertools.product(range(3), repeat=2)):
        total[..., down : down + height, right : right + width] += taps[:, tap]
    return total[..., 1:-1, 1:-1].contiguous()


def by_channel(maps: Tensor) -> Tensor:
    """(B, C, H, W) as (C, B, H, W), without a copy where a map is laid out so in memory, and one where it is not."""
    return maps.transpose(0, 1).contiguous()


def narrow_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3×3 convolution of padding 1 to fewer channels than it has: x (B, C, H, W), weight (D, C, 3, 3), bias (D,).

    The channels are mixed before pixels are brought together, so that D·9 maps are copied instead of C·9.
    Differentiable once. `demt.ops.reference.narrow_convolution_reference` spells it out.
    """
    out: Tensor = _NarrowConvolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _NarrowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        maps = by_channel(x)
        ctx.save_for_backward(maps, weight)
        # Tap (i, j) of a pixel's sum is at the neighbour (i, j): the adjoint of the taps of the flipped kernel.
        taps = linear(_by_tap(weight), maps.flatten(1).mT)
        out = sum_of_neighbours(taps.view(-1, *maps.shape[1:]))
        if bias is not None:
            out += bias[:, None, None, None]
        return out.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        grad = by_channel(grad)
        taps = neighbours(grad).flatten(1)
        grad_x = linear(_by_tap(weight).mT, taps.mT).view_as(maps).transpose(0, 1)
        grad_weight = linear(taps, maps.flatten(1)).view(len(weight), 3, 3, -1).flip(1, 2).permute(0, 3, 1, 2)
        return grad_x, grad_weight, grad.sum((1, 2, 3)) if ctx.needs_input_grad[2] else None


def _by_tap(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) to (D·9, C), the kernel flipped."""
    return weight.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, weight.shape[1])
