"""`deform_sample`: the public function and its registration as one operator of torch."""

from typing import Any

import torch
from torch import Tensor

from demt.ops.autocast import autocast_dtype, without_autocast
from demt.ops.checks import check_map, check_offset_dtype, check_same_device
from demt.ops.gridsample import deform_sample_backward, deform_sample_forward


def deform_sample(x: Tensor, offset: Tensor) -> Tensor:
    """Sample every channel of a map bilinearly at positions displaced per pixel and per group of channels.

    `y[b, c, i, j]` is `x[b, c]` at row `i + offset[b, 2g, i, j]` and column `j + offset[b, 2g + 1, i, j]`, where
    `g = c // (C / G)`. Each of the four neighbouring pixels that lies outside the map counts as zero. This is a
    deformable convolution (Dai et al., ICCV 2017, equation 2 with G offset groups) whose kernel is the 1x1 identity.

    Differentiable once, for both arguments. Where a position falls on a whole pixel, the gradient for the offset is
    the one towards larger rows and columns.

    Args:
        x: Map of shape (B, C, H, W), floating.
        offset: Displacements in pixels, (B, 2G, H, W) where G divides C, of `x`'s type or, for a half-precision `x`,
            float32. Finite or not: infinite offsets sample zero, a NaN one gives NaN. Under autocast any floating
            type goes, and is computed in float32.

    Returns:
        Map of `x`'s shape and type. Sampling is computed in float32 (float64 for float64).

    Raises:
        ValueError: for shapes or devices that do not fit together.
        TypeError: for types that do not.

    Example:
        >>> x = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> one_row_down = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
        >>> deform_sample(x, one_row_down)[0, 0].round().tolist()
        [[3.0, 4.0, 5.0], [0.0, 0.0, 0.0]]
    """
    check_map("x", x)
    check_map("offset", offset)
    batch, channels, height, width = x.shape
    pairs = offset.shape[1] // 2
    if offset.shape[1] % 2 or pairs == 0 or channels % pairs:
        raise ValueError(
            f"Expected `offset` of shape (B, 2G, H, W) where G divides the {channels} channels of `x`, "
            f"got {tuple(offset.shape)}"
        )
    if offset.shape != (batch, 2 * pairs, height, width):
        raise ValueError(
            f"Expected `offset` of shape ({batch}, {2 * pairs}, {height}, {width}) to fit `x`, "
            f"got {tuple(offset.shape)}"
        )
    check_same_device(x, offset=offset)
    if autocast_dtype(x.device) is not None and x.dtype != torch.float64:
        offset = offset.float()
    check_offset_dtype(x, offset=offset)
    return _sample_op(x, offset)


@torch.library.custom_op("demt::deform_sample", mutates_args=())
def _sample_op(x: Tensor, offset: Tensor) -> Tensor:
    with without_autocast(x.device):
        return deform_sample_forward(x, offset)


@_sample_op.register_fake
def _(x: Tensor, offset: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("demt::deform_sample_backward", mutates_args=())
def _sample_backward_op(grad: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    with without_autocast(x.device):
        return deform_sample_backward(grad, x, offset)


@_sample_backward_op.register_fake
def _(grad: Tensor, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(offset, memory_format=torch.contiguous_format),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    grads = _sample_backward_op(grad, *ctx.saved_tensors)
    return grads[0] if ctx.needs_input_grad[0] else None, grads[1] if ctx.needs_input_grad[1] else None


_sample_op.register_autograd(_backward, setup_context=_setup_context)
