"""Layers that look at one pixel at a time, in fewer operations and less memory than one after the other.

Shapes: maps are (B, D, H, W), or (B, T, D, H, W) for the maps of T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.ops.reference import per_pixel_reference
from demt.ops.runtime import (
    all_modules_are_hooked,
    has_onednn_linear,
    is_eager_on_cpu,
    is_hooked,
    is_training_step_on_cpu,
    onednn_linear,
    standard_operators_are_asked,
)

Layer: TypeAlias = "nn.Module | Callable[[Tensor], Tensor]"

#: Pixels at a time: on a CPU what its caches hold (4 MB a map of width 256), elsewhere what bounds the memory.
PIXELS = {"cpu": 1 << 12}
PIXELS_ELSEWHERE = 1 << 17

_KNOWN = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.BatchNorm2d, nn.Identity)


def per_pixel(maps: Tensor, *layers: Layer, residual: Tensor | None = None, made_by: nn.Module | None = None) -> Tensor:
    """Apply layers one after the other, each of which looks at one pixel at a time.

    Computes what `demt.ops.reference.per_pixel_reference` spells out, with two differences in how: linear layers in a
    row are multiplied into one matrix first, and where no gradient is recorded the maps go through all layers some
    rows at a time, so that no intermediate map of full size exists.

    Args:
        maps: (B, D, H, W), or (B, T, D, H, W) where no layer is a batch norm or a convolution.
        layers: `nn.Linear` and `nn.LayerNorm` over the channels, 1×1 `nn.Conv2d`, `nn.BatchNorm2d`, and elementwise
            functions such as `F.gelu`. Any other module gets tokens (…, D), as linear layers do.
        residual: Added to the result.
        made_by: The module that made `maps`, for nobody else: unless hooks look at it, the result takes their memory.

    Returns:
        Maps of the last layer's channels.

    Example:
        >>> per_pixel(torch.ones(1, 4, 5, 7), nn.LayerNorm(4), nn.Linear(4, 2), F.gelu).shape
        torch.Size([1, 2, 5, 7])
    """
    modules = [layer for layer in layers if isinstance(layer, nn.Module)]
    if not are_plain(modules, *_KNOWN):
        return per_pixel_reference(maps, *layers, residual=residual)
    # Batch norm in training needs all pixels at once.
    normalised = any(isinstance(m, nn.BatchNorm2d) and m.training for m in modules)
    as_one = normalised and maps.ndim == 4
    as_one = as_one and is_training_step_on_cpu(maps, *(each for module in modules for each in module.parameters()))
    steps = _steps(layers, as_one)
    inputs = [maps] if residual is None else [maps, residual]
    if as_one:
        return _as_batch(_through(steps, *(_as_one_image(each) for each in inputs))[0], len(maps))
    if normalised:
        return _through(steps, *inputs)[0]
    # A single layer has no intermediate map.
    if len(steps) == len(inputs) == 1:
        return steps[0](maps)
    return by_rows(partial(_through, steps), inputs, reuse=() if made_by is None or is_hooked(made_by) else [maps])[0]


def _steps(layers: Sequence[Layer], as_one: bool) -> list[Callable[[Tensor], Tensor]]:
    """The layers as functions of maps, or of batches as one image; linear ones in a row are one function."""
    steps: list[Callable[[Tensor], Tensor]] = []
    row: list[nn.Module] = []
    for layer in (*layers, None):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            row.append(layer)
        elif not isinstance(layer, nn.Identity):
            if row:
                weight, bias = compose(row)
                by_matrix = partial(linear, weight=weight, bias=bias)
                steps.append(partial(_over_one_image, weight, bias) if as_one else partial(_over_channels, by_matrix))
                row = []
            if layer is not None:
                steps.append(partial(_over_channels, layer) if isinstance(layer, nn.LayerNorm) else layer)
    return steps


def _through(steps: Sequence[Callable[[Tensor], Tensor]], maps: Tensor, residual: Tensor | None = None) -> list[Tensor]:
    for step in steps:
        maps = step(maps)
    return [maps if residual is None else residual + maps]


def compose(layers: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """Weight (D, C) and bias (D,), or None, of linear layers in a row as one; `nn.Identity` may be among them.

    Multiplying D×D matrices costs less than one more pass over all pixels.
    """
    first, *others = (layer for layer in layers if not isinstance(layer, nn.Identity))
    weight, bias = first.weight.flatten(1), first.bias
    for layer in others:
        matrix = layer.weight.flatten(1)
        weight, bias = matrix @ weight, layer.bias if bias is None else F.linear(bias[None], matrix, layer.bias)[0]
    return weight, bias


def _as_one_image(maps: Tensor) -> Tensor:
    """Maps (B, D, H, W) below one another, (1, D, B·H, W): to layers on single pixels the same, and batch norm is three
    times as fast.
    """
    return maps.transpose(0, 1).flatten(1, 2)[None]


def _as_batch(image: Tensor, batch: int) -> Tensor:
    return image[0].unflatten(1, (batch, -1)).transpose(0, 1)


def _over_one_image(weight: Tensor, bias: Tensor | None, image: Tensor) -> Tensor:
    """A linear layer on one image, whose result is laid out channel by channel, as batch norm and sampling want it."""
    mixed = linear(weight, channels_last(image).reshape(-1, weight.shape[1]))
    return (mixed if bias is None else mixed + bias[:, None]).view(1, -1, *image.shape[2:])


def _over_channels(function: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    return channels_first(function(channels_last(maps)))


def are_plain(layers: Iterable[Any], *kinds: type[nn.Module]) -> bool:
    """Whether layers may be taken apart: all exactly of one of these classes, and without hooks that look at them.

    Others, such as adapters and quantised layers, are to be called; so are layers whose weights only look like a tensor
    (torchao's of 8 bits).
    """
    for layer in layers:
        if type(layer) not in kinds or is_hooked(layer):
            return False
        for parameter in layer._parameters.values():
            if hasattr(type(parameter), "__tensor_flatten__"):
                return False
    return True


def by_rows(
    function: Callable[..., Sequence[Tensor]],
    maps: Sequence[Tensor],
    *,
    owner: nn.Module | None = None,
    reuse: Sequence[Tensor] = (),
) -> Sequence[Tensor]:
    """`function(*maps)`, of maps in which no pixel sees another, computed some rows at a time.

    The numbers are the same, intermediate maps stay in the processor's cache, and none of full size is allocated.
    The function gets the maps whole while a graph is recorded, and where the owner is in training mode (batch norm
    sees all pixels) or somebody looks at its modules with hooks.

    Args:
        function: Of maps, to maps of the same height.
        maps: (…, H, W).
        owner: The module whose forward this is part of.
        reuse: Maps, one a result, whose memory the results may overwrite.
    """
    if _is_recorded():  # before sizes are compared, which a graph would hold against other sizes
        return function(*maps)
    height, width = maps[0].shape[-2:]
    rows = max(PIXELS.get(maps[0].device.type, PIXELS_ELSEWHERE) // max(len(maps[0]) * width, 1), 1)
    watched = all_modules_are_hooked() or (
        owner is not None and (owner.training or any(map(is_hooked, owner.modules())))
    )
    if rows >= height or watched:
        return function(*maps)
    results: list[Tensor] = []
    for top in range(0, height, rows):
        block = function(*(each[..., top : top + rows, :] for each in maps))
        if not results:
            results = [_memory(part, height, reuse[i] if reuse else None) for i, part in enumerate(block)]
        for result, part in zip(results, block):
            result[..., top : top + rows, :] = part
    return results


def _is_recorded() -> bool:
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _memory(block: Tensor, height: int, old: Tensor | None) -> Tensor:
    size = (*block.shape[:-2], height, block.shape[-1])
    if old is not None and old.shape == size and old.dtype == block.dtype:
        return old
    if len(size) == 4:
        return block.new_empty(size)
    return channels_first(block.new_empty(size[0], *size[3:], *size[1:3]))


def channels_last(maps: Tensor) -> Tensor:
    """View of (B, D, H, W) as (B, H, W, D), (B, T, D, H, W) as (B, H, W, T, D): a pixel's tokens side by side."""
    return maps.movedim(-3, -1) if maps.ndim == 4 else maps.permute(0, 3, 4, 1, 2)


def channels_first(tokens: Tensor) -> Tensor:
    """Inverse of `channels_last`."""
    return tokens.movedim(-1, -3) if tokens.ndim == 4 else tokens.permute(0, 3, 4, 1, 2)


def stack_tasks(maps: Iterable[Tensor]) -> Tensor:
    """Maps (B, D, H, W) of T tasks to (B, T, D, H, W), laid out in memory as `channels_last` views them."""
    return channels_first(torch.stack([_tokens(each) for each in maps], dim=3))


def _tokens(maps: Tensor) -> Tensor:
    """`channels_last`; of maps held channel by channel a copy, as torch transposes matrices faster than other views."""
    if standard_operators_are_asked():
        # Sizes by name: a runtime would else move the transposing behind the stacking, where it is slow.
        return maps.flatten(2).mT.reshape(channels_last(maps).shape)
    by_channel = maps.transpose(0, 1)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not by_channel.is_contiguous():
        return channels_last(maps)
    return by_channel.flatten(1).mT.contiguous().view(channels_last(maps).shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: x (..., C), weight (D, C) and bias (D,) to (..., D).

    Float32 on a CPU with AVX-512 goes through oneDNN, differentiable any number of times. All else is torch's own
    function: other devices and types, autocast, tensor subclasses, torch.func, and graphs that are compiled, exported
    or traced.
    """
    if standard_operators_are_asked():
        # As rows: runtimes add the bias to the product of two matrices in one go, and not to others.
        return F.linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    if not _onednn_takes(x, weight, bias):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias)):
        out: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        out = onednn_linear(rows, weight, bias)
    return out.view(*x.shape[:-1], -1)


def _onednn_takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() > 0
        and is_eager_on_cpu(x, weight, bias)
        and bool(torch.backends.mkldnn.enabled)
        and has_onednn_linear()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return onednn_linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            linear(grad, weight.mT) if need_x else None,
            # MKL's: oneDNN would copy a transposed first factor.
            grad.mT @ x if need_weight else None,
            grad.sum(0) if need_bias else None,
        )
