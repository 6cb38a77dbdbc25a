"""Interaction and queries of all tasks in one pass over blocks of pixels, for training steps on a CPU.

One after the other they write a map of all tasks' tokens for each layer, and their products are many small ones. Here a
block of pixels goes through all layers while it is in the processor's cache, with the heads of all tasks in one product
a pixel, and the backward pass is written out.

Shapes: P pixels, b of them in a block; T tasks; N heads of d channels, D = N·d. Within a block maps are (T, D, b) and
tokens (T, b, D), or (b, T, D) where a pixel's are multiplied with each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from demt.ops.attention import Layers, pixel_attentions
from demt.ops.pointwise import are_plain, by_rows, channels_first, compose, per_pixel, stack_tasks
from demt.ops.runtime import (
    all_modules_are_hooked,
    is_hooked,
    is_training_step_on_cpu,
    standard_operators_are_asked,
)
from demt.ops.taps import by_channel

#: Numbers that a block of pixels may have in the making, so that they stay in the processor's cache.
BLOCK = 1 << 20


class Query(NamedTuple):
    """The layers of a task's query block: x + norm(out(softmax attention of query(x) to key(F) and value(F)))."""

    query: Layers
    key: Layers
    value: Layers
    out: Layers
    norm: Any


def tasks_together(decode: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Decorate a decoder's method that says how the maps of T tasks become T others: the same, faster where it can be.

    The method, `decode(decoder, *maps)`, gives the maps to `decoder.interaction`, what comes out and each map to its
    entry of `decoder.queries`, and what they find to `decoder.gating`. It is called as it stands, but

    - in training steps on a CPU interaction and queries of single pixels take `interact_and_query`, unless somebody
      looks at the blocks or they are computed again in the backward pass;
    - where no gradient is recorded, such maps go through the method some rows at a time, see `by_rows`;
    - in graphs for other runtimes the queries of a pixel take `pixel_attentions`.
    """

    @functools.wraps(decode)
    def together(decoder: Any, *maps: Tensor) -> list[Tensor]:
        queries = list(decoder.queries.values())
        if standard_operators_are_asked() and all(block.attention == "pixelwise" for block in queries):
            fused = decoder.interaction(stack_tasks(maps))
            return [decoder.gating(z) for z in _ask(queries, maps, fused)]
        blocks = [decoder.interaction, *queries]
        if torch.compiler.is_compiling() or not all(_looks_at_pixels(block) for block in blocks):
            return decode(decoder, *maps)
        if decoder.training:
            looked_at = all_modules_are_hooked() or any(is_hooked(block) for block in blocks)
            interaction, asked = decoder.interaction.layers(), [block.layers() for block in queries]
            if looked_at or decoder.grad_checkpointing or not takes_one_pass(maps, interaction, asked):
                return decode(decoder, *maps)
            return [decoder.gating(z) for z in interact_and_query(maps, interaction, asked, queries[0].heads)]
        # Without mixers all tasks share the neck's map, whose memory is still needed.
        reuse = maps if len({id(each) for each in maps}) == len(maps) else ()
        return list(by_rows(functools.partial(decode, decoder), maps, owner=decoder, reuse=reuse))

    return together


def _looks_at_pixels(block: nn.Module) -> bool:
    """Whether a block's layers are all that it computes, at one pixel at a time: its own class lists them."""
    return "layers" in vars(type(block)) and block.attention in ("pointwise", "pixelwise")


def _ask(blocks: Sequence[Any], maps: Sequence[Tensor], fused: Tensor) -> list[Tensor]:
    """What each ``"pixelwise"`` block makes of its map (B, D, H, W) and fused (B, T, D, H, W), in larger products."""
    queries, keys, values, outs, norms = zip(*(block.layers() for block in blocks))
    attended = pixel_attentions(maps, fused, queries, keys, values, outs, blocks[0].heads)
    return [per_pixel(each, norm, residual=x) for each, norm, x in zip(attended, norms, maps)]


def interact_and_query(
    maps: Sequence[Tensor], interaction: Layers, queries: Sequence[Query], heads: int
) -> list[Tensor]:
    """The interaction's layers on the maps of all T tasks, and the query block of each on the T results at a pixel.

    `demt.ops.reference.interact_and_query_reference` spells it out. The layers are such as `takes_one_pass` allows.

    Args:
        maps: T maps (B, D, H, W).
        interaction: Linear layers, and in the end a layer norm.
        queries: The layers of each task, as `demt.ops.per_pixel` takes them.
        heads: Attention heads, a divisor of D.

    Returns:
        T maps (B, D, H, W).
    """
    batch, channels, height, width = maps[0].shape
    given = *_folded(interaction, queries, heads), *(by_channel(each).flatten(1) for each in maps)
    tokens: Sequence[Tensor]
    tokens = _OnePass.apply(interaction[-1].eps, queries[0].norm.eps, *given)  # type: ignore[no-untyped-call]
    return [channels_first(each.view(batch, height, width, channels)) for each in tokens]


def takes_one_pass(maps: Sequence[Tensor], interaction: Layers, queries: Sequence[Query]) -> bool:
    """Whether this is a training step on a CPU, of torch's own layers that no hook looks at."""
    *mixing, fused = interaction
    norms = [fused, *(each.norm for each in queries)]
    groups = [mixing, *(group for each in queries for group in (each.query, each.key, each.value, each.out))]
    layers = [layer for group in groups for layer in group]
    return (
        are_plain(norms, nn.LayerNorm)
        and all(each.bias is not None for each in norms)
        and are_plain(layers, nn.Linear, nn.Identity)
        and all(len(group) > 0 and isinstance(group[-1], nn.Linear) for group in groups)
        and all(each.key[-1].bias is None for each in queries)
        and len({each.norm.eps for each in queries}) == 1
        and is_training_step_on_cpu(*maps, *(each for layer in (*norms, *layers) for each in layer.parameters()))
    )


def _folded(interaction: Layers, queries: Sequence[Query], heads: int) -> tuple[Tensor, ...]:
    """What `_OnePass` multiplies with, of all tasks: matrices (T, D, D), those of heads (T·N, d, D), biases (T, 1, D).

    The interaction's norm keeps no weight and bias: the weight is part of keys and values; the bias adds the same to
    all scores of a query, which softmax cancels, and the same to all values, which is part of the output's bias.
    """
    *mixing, fused = interaction
    mix, mix_bias = compose(mixing)
    parts = []
    for query, key, value, out, norm in queries:
        (asks, asks_bias), (keys, _), (values, values_bias), (outs, outs_bias) = map(compose, (query, key, value, out))
        constant = outs @ _sum(values @ fused.bias, values_bias)
        scale = (len(keys) // heads) ** -0.5
        parts.append(
            (
                asks,
                _sum(torch.zeros_like(constant), asks_bias)[None],
                (keys * (fused.weight * scale)).unflatten(0, (heads, -1)),
                (values * fused.weight).unflatten(0, (heads, -1)),
                outs,
                _sum(constant, outs_bias)[None],
                norm.weight[None],
                norm.bias[None],
            )
        )
    asks, asks_bias, keys, values, outs, outs_bias, norm_weight, norm_bias = map(torch.stack, zip(*parts))
    heads_of_all = keys.flatten(0, 1), values.flatten(0, 1)
    return (
        mix,
        _sum(torch.zeros_like(mix[0]), mix_bias),
        asks,
        asks_bias,
        *heads_of_all,
        outs,
        outs_bias,
        norm_weight,
        norm_bias,
    )


def _sum(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


class _OnePass(torch.autograd.Function):
    """Maps (D, P) of all tasks and what `_folded` gives, to tokens (P, D) of all tasks; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        fused_eps: float,
        eps: float,
        mix: Tensor,
        mix_bias: Tensor,
        query: Tensor,
        query_bias: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        out_bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        *maps: Tensor,
    ) -> tuple[Tensor, ...]:
        tasks, heads = len(maps), len(key) // len(maps)
        results = tuple(each.new_empty(each.shape[::-1]) for each in maps)
        asked_by_all, length = _memory(maps, key)
        kept: list[Tensor] = []
        for pixels in _blocks(maps, length):
            x = torch.stack([each[:, pixels] for each in maps]).mT
            fused, fused_scale = _normalised(
                torch.baddbmm(mix_bias, x, mix.mT.expand(tasks, -1, -1)).transpose(0, 1), fused_eps
            )
            queries = _split(torch.baddbmm(query_bias, x, query.mT), heads)
            weights = (fused @ _product(queries, key, asked_by_all).permute(1, 2, 0)).softmax(1)
            pooled = _product(weights.mT, fused, asked_by_all)
            attended = _joined(pooled.transpose(0, 1) @ value.mT, tasks)
            normalised, norm_scale = _normalised(torch.baddbmm(out_bias, attended, out.mT), eps)
            for result, each in zip(results, torch.addcmul(shift, normalised, scale).add_(x)):
                result[pixels] = each
            kept += [fused, fused_scale, queries, weights, attended, normalised, norm_scale]
        ctx.save_for_backward(mix, query, key, value, out, scale, *maps, *kept)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tasks = len(grads)
        mix, query, key, value, out, scale, *others = ctx.saved_tensors
        maps, kept = others[:tasks], iter(others[tasks:])
        heads = len(key) // tasks
        mix_of_all = mix.expand(tasks, -1, -1)
        grad_maps = [torch.empty_like(each) for each in maps]
        grad_mix, grad_query, grad_key, grad_value, grad_out = (
            each.new_zeros(each.shape) for each in (mix_of_all, query, key, value, out)
        )
        grad_mix_bias, grad_query_bias, grad_out_bias, grad_scale, grad_shift = scale.new_zeros(5, *scale.shape)
        (first, length), (second, _) = _memory(maps, key), _memory(maps, key)
        for pixels in _blocks(maps, length):
            fused, fused_scale, queries, weights, attended, normalised, norm_scale = (next(kept) for _ in range(7))
            x = torch.stack([each[:, pixels] for each in maps])
            grad = torch.stack([each[pixels] for each in grads])
            # The norm and what comes before it.
            grad_shift += grad.sum(1, keepdim=True)
            grad_scale += (grad * normalised).sum(1, keepdim=True)
            grad_attended = _normalised_backward(grad * scale, normalised, norm_scale)
            grad_out_bias += grad_attended.sum(1, keepdim=True)
            grad_out.baddbmm_(grad_attended.mT, attended)
            # Attention.
            grad_heads = _split(grad_attended @ out, heads)
            grad_value.baddbmm_(grad_heads.mT, _product(weights.mT, fused, first).transpose(0, 1))
            grad_pooled = _product(grad_heads, value, second).transpose(0, 1)
            grad_scores = (fused @ grad_pooled.mT).mul_(weights)
            grad_scores.addcmul_(weights, grad_scores.sum(1, keepdim=True), value=-1)
            grad_asked = _product(grad_scores.mT, fused, first).transpose(0, 1)
            grad_key.baddbmm_(queries.mT, grad_asked)
            grad_queries = _joined(grad_asked @ key.mT, tasks)
            asked = _product(queries, key, first).transpose(0, 1)
            grad_fused = torch.bmm(grad_scores, asked).baddbmm_(weights, grad_pooled)
            # The interaction, the queries' own way, and the residual.
            grad_query.baddbmm_(grad_queries.mT, x.mT)
            grad_query_bias += grad_queries.sum(1, keepdim=True)
            grad_mixed = _normalised_backward(grad_fused, fused, fused_scale).transpose(0, 1)
            grad_mix.baddbmm_(grad_mixed.mT, x.mT)
            grad_mix_bias += grad_mixed.sum(1, keepdim=True)
            grad_x = torch.baddbmm(grad.mT, query.mT, grad_queries.mT).baddbmm_(mix_of_all.mT, grad_mixed.mT)
            for grad_map, each in zip(grad_maps, grad_x):
                grad_map[:, pixels] = each
        of_mix = grad_mix.sum(0), grad_mix_bias.sum((0, 1))
        of_queries = grad_query, grad_query_bias, grad_key, grad_value, grad_out, grad_out_bias, grad_scale, grad_shift
        return None, None, *of_mix, *of_queries, *grad_maps


def _memory(maps: Sequence[Tensor], key: Tensor) -> tuple[Tensor, int]:
    """Memory for a vector (D) a pixel and head of all tasks, of a block, and how many pixels a block has."""
    channels, pixels = maps[0].shape
    length = min(max(BLOCK // ((len(maps) + 2 * len(key)) * channels), 1), pixels)
    return key.new_empty(length * len(key) * channels), length


def _blocks(maps: Sequence[Tensor], length: int) -> Iterator[slice]:
    pixels = maps[0].shape[1]
    return (slice(start, min(start + length, pixels)) for start in range(0, pixels, length))


def _product(a: Tensor, b: Tensor, memory: Tensor) -> Tensor:
    """Products of matrices, in memory that is there: large new tensors come from the system page by page."""
    size = len(a), a.shape[1], b.shape[2]
    return torch.bmm(a, b, out=memory[: math.prod(size)].view(size))


def _split(tokens: Tensor, heads: int) -> Tensor:
    """(T, b, N·d) to (T·N, b, d)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _joined(heads: Tensor, tasks: int) -> Tensor:
    """(T·N, b, d) to (T, b, N·d)."""
    return heads.unflatten(0, (tasks, -1)).transpose(1, 2).flatten(2)


def _normalised(tokens: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Layer norm without weight and bias, and what it multiplied with."""
    normalised, _, scale = torch.native_layer_norm(tokens, tokens.shape[-1:], None, None, eps)
    return normalised, scale


def _normalised_backward(grad: Tensor, normalised: Tensor, scale: Tensor) -> Tensor:
    """Gradient of what was normalised; to torch's function it is as if a normalised token had come in."""
    mean, one = torch.zeros_like(scale), torch.ones_like(scale)
    args = grad, normalised, grad.shape[-1:], mean, one, None, None, (True, False, False)
    of_normalised: Tensor = torch.ops.aten.native_layer_norm_backward(*args)[0]
    return of_normalised.mul_(scale)
