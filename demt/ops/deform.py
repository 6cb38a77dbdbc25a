"""`deform_mix` and `deform_sample`: the public functions, each one operator of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.ops.checks import (
    check_map,
    check_offset_dtype,
    check_same_device,
    check_same_dtype,
    check_shape,
    compute_dtype,
)
from demt.ops.deform_kept import KeptDeformMix, fits
from demt.ops.dispatch import log_fallback, triton_obstacle
from demt.ops.grid_sample import (
    deform_mix_backward,
    deform_mix_forward,
    deform_sample_backward,
    deform_sample_forward,
)
from demt.ops.pointwise import are_plain
from demt.ops.runtime import (
    autocast_dtype,
    is_training_step_on_cpu,
    standard_operators_are_asked,
    without_autocast,
)
from demt.ops.standard import deform_mix_standard, deform_sample_standard
from demt.ops.taps import narrow_convolution


def deform_mix(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Make offsets from a small map, sample `x` there, and mix the channels: the whole of a deformable 1x1 convolution.

    Computes `weight . deform_sample(x, conv(hidden)) + bias`, where `conv` is the 3x3 convolution of padding 1 and two
    groups given by `offset_weight` and `offset_bias`, without ever holding the 2G offset channels. This is the spatial
    deformable operator of DeMT (arXiv 2301.03461) as released, where G = C.

    Differentiable once, for all arguments. Positions are computed in float32 (float64 for float64) whatever the types.

    Args:
        x: Map of shape (B, C, H, W), floating.
        hidden: Map of shape (B, 18, H, W), of `x`'s type or, for a half-precision `x`, float32. bfloat16 cannot
            hold coordinates beyond 256 to a pixel: leave it float32 where it carries coordinates.
        offset_weight: (2G, 9, 3, 3) where G divides C, of `hidden`'s type. The first G output channels read the first
            9 channels of `hidden`, the others the last 9; channels 2g and 2g + 1 are the rows and columns of group g.
        offset_bias: (2G,) in pixels, or None.
        weight: (D, C), of `x`'s type.
        bias: (D,), or None.

    Infinite offsets sample zero; a NaN one gives NaN, or zero where the Triton kernels run (see `best_path`).

    Under autocast `x`, `weight` and `bias` are cast to autocast's type, as a convolution's would be; the others to
    float32.

    Returns:
        Map of shape (B, D, H, W), of `x`'s type (autocast's under autocast).

    Raises:
        ValueError: for shapes or devices that do not fit together.
        TypeError: for types that do not.

    Example:
        >>> x, hidden = torch.ones(1, 4, 5, 5), torch.zeros(1, 18, 5, 5)
        >>> weight, bias = torch.full((3, 4), 0.25), torch.zeros(3)
        >>> out = deform_mix(x, hidden, torch.zeros(8, 9, 3, 3), None, weight, bias)
        >>> out.shape, round(out.mean().item(), 3)
        (torch.Size([1, 3, 5, 5]), 1.0)
    """
    _check_shapes(x, hidden, offset_weight, offset_bias, weight, bias)
    if offset_bias is None:
        offset_bias = offset_weight.new_zeros(offset_weight.shape[0])
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    low = autocast_dtype(x.device)
    if low is not None and x.dtype != torch.float64:
        x, weight, bias = x.to(low), weight.to(low), bias.to(low)
        hidden, offset_weight, offset_bias = hidden.float(), offset_weight.float(), offset_bias.float()
    check_same_dtype(x, weight=weight, bias=bias)
    check_offset_dtype(x, hidden=hidden, offset_weight=offset_weight, offset_bias=offset_bias)
    if standard_operators_are_asked():
        return deform_mix_standard(x, hidden, offset_weight, offset_bias, weight, bias)
    inputs = (x, hidden, offset_weight, offset_bias, weight, bias)
    keeps = is_training_step_on_cpu(*inputs) and fits(x, hidden, offset_weight)
    if keeps and triton_obstacle(x, offset_weight, weight) is not None:
        out: Tensor = KeptDeformMix.apply(*inputs)  # type: ignore[no-untyped-call]
        return out
    return _mix_op(x, hidden, offset_weight, offset_bias, weight, bias)


def _check_shapes(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor | None, weight: Tensor, bias: Tensor | None
) -> None:
    check_map("x", x)
    check_map("offset_weight", offset_weight)
    batch, channels, height, width = x.shape
    check_shape("hidden", hidden, (batch, 18, height, width), "(B, 18, H, W) beside `x`")
    groups = offset_weight.shape[0] // 2
    if offset_weight.shape[0] % 2 or groups == 0 or channels % groups or offset_weight.shape[1:] != (9, 3, 3):
        raise ValueError(
            f"Expected `offset_weight` of shape (2G, 9, 3, 3) where G divides the {channels} channels of `x`, "
            f"got {tuple(offset_weight.shape)}"
        )
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != channels:
        got = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"Expected `weight` of shape (D, {channels}), a column for each channel of `x`, got {got}")
    check_same_device(x, hidden=hidden, offset_weight=offset_weight, weight=weight)
    if offset_bias is not None:
        check_shape("offset_bias", offset_bias, (2 * groups,), "to fit `offset_weight`")
        check_same_device(x, offset_bias=offset_bias)
    if bias is not None:
        check_shape("bias", bias, (weight.shape[0],), "to fit `weight`")
        check_same_device(x, bias=bias)


@torch.library.custom_op("demt::deform_mix", mutates_args=())
def _mix_op(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    obstacle = triton_obstacle(x, offset_weight, weight)
    with without_autocast(x.device):
        if obstacle is None:
            from demt.ops.triton import launch  # triton is not there on every platform

            return launch.deform_mix_forward(x, hidden, offset_weight, offset_bias, weight, bias)
        log_fallback(x.device, obstacle)
        return deform_mix_forward(x, hidden, offset_weight, offset_bias, weight, bias)


@_mix_op.register_fake
def _(x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[2], x.shape[3])


@torch.library.custom_op("demt::deform_mix_backward", mutates_args=())
def _mix_backward_op(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    offset_weight: Tensor,
    offset_bias: Tensor,
    weight: Tensor,
    need_sampling: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    backward = deform_mix_backward
    if triton_obstacle(x, offset_weight, weight) is None:
        from demt.ops.triton import launch

        backward = launch.deform_mix_backward
    with without_autocast(x.device):
        return backward(grad, x, hidden, offset_weight, offset_bias, weight, need_sampling, need_weight)


@_mix_backward_op.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    offset_weight: Tensor,
    offset_bias: Tensor,
    weight: Tensor,
    need_sampling: bool,
    need_weight: bool,
) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty_like(each, memory_format=torch.contiguous_format)
        for each in (x, hidden, offset_weight, offset_bias, weight)
    )


def _setup_mix(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])


def _mix_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grads: list[Tensor] = [*_mix_backward_op(grad, *ctx.saved_tensors, any(needs[:4]), needs[4])]
    if needs[5]:
        grads.append(grad.sum((0, 2, 3)))
    return tuple(grads[index] if need else None for index, need in enumerate(needs))


_mix_op.register_autograd(_mix_backward, setup_context=_setup_mix)


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
    if standard_operators_are_asked():
        return deform_sample_standard(x, offset)
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


def _setup_sample(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _sample_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    grads = _sample_backward_op(grad, *ctx.saved_tensors)
    return grads[0] if ctx.needs_input_grad[0] else None, grads[1] if ctx.needs_input_grad[1] else None


_sample_op.register_autograd(_sample_backward, setup_context=_setup_sample)


def float32_convolution(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """`layer(x)` in float32 at least, whatever autocast says: half precision cannot hold coordinates."""
    with without_autocast(x.device):
        dtype = compute_dtype(x.dtype)
        if _is_narrow(layer) and is_training_step_on_cpu(x, layer.weight, layer.bias):
            return narrow_convolution(x, layer.weight, layer.bias)
        if layer.weight.dtype == dtype:
            return layer(x.to(dtype))  # type: ignore[no-any-return]
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.conv2d(x.to(dtype), layer.weight.to(dtype), bias, padding=layer.padding, groups=layer.groups)


def _is_narrow(layer: nn.Conv2d) -> bool:
    """Whether this is what `narrow_convolution` computes: no hooks, 3×3, and to fewer channels than it has."""
    if not are_plain([layer], nn.Conv2d) or layer.out_channels >= layer.in_channels:
        return False
    settings = (layer.kernel_size, layer.padding, layer.stride, layer.dilation, layer.groups, layer.padding_mode)
    return settings == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
