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

from demt.ops.dispatch import standard_operators_are_asked
from demt.ops.linear import is_training_step_on_cpu, linear
from demt.ops.reference import per_pixel_reference
from demt.ops.torch_private import all_modules_are_hooked, is_hooked

Layer: TypeAlias = "nn.Module | Callable[[Tensor], Tensor]"

#: Pixels at a time: on a CPU what its caches hold (4 MB a map of width 256), elsewhere what bounds the memory.
PIXELS = {"cpu": 1 << 12}
PIXELS_ELSEWHERE = 1 << 17

_KNOWN = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.BatchNorm2d, nn.Identity)


def per_pixel(maps: Tensor, *layers: Layer, residual: Tensor | None = None, overwrite: bool = False) -> Tensor:
    """Apply layers one after the other, each of which looks at one pixel at a time.

    Computes what `demt.ops.reference.per_pixel_reference` spells out, with two differences in how: linear layers in a
    row are multiplied into one matrix first, and where no gradient is recorded the maps go through all layers some
    rows at a time, so that no intermediate map of full size exists.

    Args:
        maps: (B, D, H, W), or (B, T, D, H, W) where no layer is a batch norm or a convolution.
        layers: `nn.Linear` and `nn.LayerNorm` over the channels, 1×1 `nn.Conv2d`, `nn.BatchNorm2d`, and elementwise
            functions such as `F.gelu`. Any other module gets tokens (…, D), as linear layers do.
        residual: Added to the result.
        overwrite: The result may take the memory of `maps`, which nobody else needs.

    Returns:
        Maps of the last layer's channels.

    Example:
        >>> per_pixel(torch.ones(1, 4, 5, 7), nn.LayerNorm(4), nn.Linear(4, 2), F.gelu).shape
        torch.Size([1, 2, 5, 7])
    """
    modules = [layer for layer in layers if isinstance(layer, nn.Module)]
    if not all(is_plain(module, *_KNOWN) for module in modules):
        return per_pixel_reference(maps, *layers, residual=residual)
    # Batch norm in training needs all pixels at once.
    normalised = any(isinstance(m, nn.BatchNorm2d) and m.training for m in modules)
    as_one = normalised and maps.ndim == 4
    as_one = as_one and is_training_step_on_cpu(maps, *(each for module in modules for each in module.parameters()))
    steps = _steps(layers, _over_one_image if as_one else partial(_over_channels, linear))

    def apply(maps: Tensor, residual: Tensor | None = None) -> Tensor:
        for step in steps:
            maps = step(maps)
        return maps if residual is None else residual + maps

    inputs = [maps] if residual is None else [maps, residual]
    if as_one:
        return _as_batch(apply(*(_as_one_image(each) for each in inputs)), len(maps))
    # A single layer has no intermediate map.
    if len(steps) == len(inputs) == 1 or normalised:
        return apply(*inputs)
    return by_rows(lambda *rows: [apply(*rows)], inputs, reuse=[maps] if overwrite else ())[0]


def _steps(
    layers: Sequence[Layer], by_matrix: Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]
) -> list[Callable[[Tensor], Tensor]]:
    """The layers as functions of maps, linear ones in a row as one: `by_matrix` of their weight and bias."""
    steps: list[Callable[[Tensor], Tensor]] = []
    row: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            row.append(layer)
        elif not isinstance(layer, nn.Identity):
            steps += [by_matrix(*compose(row))] if row else []
            steps.append(_over_channels(layer) if isinstance(layer, nn.LayerNorm) else layer)
            row = []
    return [*steps, by_matrix(*compose(row))] if row else steps


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


def _over_one_image(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """A linear layer on one image, whose result is laid out channel by channel, as batch norm and sampling want it."""

    def apply(image: Tensor) -> Tensor:
        mixed = linear(weight, channels_last(image).reshape(-1, weight.shape[1]))
        return (mixed if bias is None else mixed + bias[:, None]).view(1, -1, *image.shape[2:])

    return apply


def _over_channels(function: Callable[..., Tensor], *parameters: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda maps: channels_first(function(channels_last(maps), *parameters))


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer may be taken apart: exactly of one of these classes, and no hooks that look at it.

    Others, such as adapters and quantised layers, are to be called; so are layers whose weights only look like a tensor
    (torchao's of 8 bits).
    """
    wraps = any(hasattr(type(each), "__tensor_flatten__") for each in module._parameters.values())
    return type(module) in kinds and not wraps and not is_hooked(module)


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
    watched = all_modules_are_hooked() or (owner is not None and (owner.training or _any_hooked(owner)))
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


def _any_hooked(owner: nn.Module) -> bool:
    return any(is_hooked(module) for module in owner.modules())


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
