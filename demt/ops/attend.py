"""Attention of every pixel to the T tokens of the same pixel: small products, one a pixel.

Shapes: P pixels, T tokens, N heads of d channels, D = N·d; queries (P, D), keys and values (P, T, D) before their
projections, whose weights are (D, D).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from demt.ops.dispatch import standard_operators_are_asked
from demt.ops.linear import is_training_step_on_cpu

#: Numbers that a block of pixels may have in the making, so that they stay in the processor's cache.
BLOCK = 1 << 19


def attend_to_pixel(
    queries: Tensor, keys: Tensor, values: Tensor, key_weight: Tensor, value_weight: Tensor, heads: int
) -> Tensor:
    """softmax((Wk keys) queries / √d) over the T tokens of a pixel, times (Wv values): (P, D).

    Keys and values are never formed: q·(Wk f) = (Wkᵀ q)·f, and Σ a (Wv f) = Wv Σ a f, so that the products are with one
    vector a pixel and head instead of T. For gradients in a training step on a CPU the scores alone are kept.
    """
    scale = (queries.shape[1] // heads) ** -0.5
    into_keys, from_values = (weight.view(heads, -1, weight.shape[1]) for weight in (key_weight, value_weight))
    arguments = (queries, keys, values, into_keys * scale, from_values)
    if standard_operators_are_asked():
        return _attend_standard(*arguments)
    if is_training_step_on_cpu(*arguments):
        out: Tensor = _Attend.apply(*arguments)  # type: ignore[no-untyped-call]
        return out
    return _attend(*arguments)[0].transpose(0, 1).flatten(1)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, key_weight: Tensor, value_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """What each head finds (N, P, d), and the softmax's (P, T, N)."""
    weights = (keys @ _asked(queries, key_weight).mT).softmax(1)
    pooled = weights.mT @ values
    return pooled.transpose(0, 1) @ value_weight.mT, weights


def _attend_standard(queries: Tensor, keys: Tensor, values: Tensor, key_weight: Tensor, value_weight: Tensor) -> Tensor:
    """`_attend` with the tokens last in the scores, where runtimes are quick to take the softmax: (P, D)."""
    weights = (_asked(queries, key_weight) @ keys.mT).softmax(-1)
    return ((weights @ values).transpose(0, 1) @ value_weight.mT).transpose(0, 1).flatten(1)


def _asked(queries: Tensor, key_weight: Tensor) -> Tensor:
    """What each head asks of a token itself: (P, N, D)."""
    return (_heads_first(queries, key_weight) @ key_weight).transpose(0, 1)


def _heads_first(tokens: Tensor, weight: Tensor) -> Tensor:
    """(P, N·d) as (N, P, d)."""
    return tokens.unflatten(1, (len(weight), -1)).transpose(0, 1)


class _Attend(torch.autograd.Function):
    """`_attend` of blocks of pixels, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, key_weight: Tensor, value_weight: Tensor
    ) -> Tensor:
        attended, weights = torch.empty_like(queries), keys.new_empty(*keys.shape[:2], len(key_weight))
        blocks = _blocks((queries, keys, values, attended, weights), key_weight)
        for query, key, value, result, weight in blocks:
            heads, softmax = _attend(query, key, value, key_weight, value_weight)
            _heads_first(result, value_weight).copy_(heads)
            weight.copy_(softmax)
        ctx.one_fused = keys is values
        ctx.save_for_backward(queries, keys, values, key_weight, value_weight, weights)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, key_weight, value_weight, weights = ctx.saved_tensors
        grad_queries, grad_keys = queries.new_empty(queries.shape), keys.new_empty(keys.shape)
        grad_values = grad_keys if ctx.one_fused else values.new_empty(values.shape)
        grad_key_weight, grad_value_weight = torch.zeros_like(key_weight), torch.zeros_like(value_weight)
        blocks = _blocks((queries, keys, values, weights, grad, grad_queries, grad_keys, grad_values), key_weight)
        for query, key, value, weight, grad_out, grad_query, grad_key, grad_value in blocks:
            asked, pooled = _asked(query, key_weight), weight.mT @ value
            grad_heads = _heads_first(grad_out, value_weight)
            grad_value_weight += grad_heads.mT @ pooled.transpose(0, 1)
            grad_pooled = (grad_heads @ value_weight).transpose(0, 1)
            grad_scores = weight * (value @ grad_pooled.mT)
            grad_scores -= weight * grad_scores.sum(1, keepdim=True)
            grad_asked = (grad_scores.mT @ key).transpose(0, 1)
            _heads_first(grad_query, key_weight).copy_(grad_asked @ key_weight.mT)
            grad_key_weight += _heads_first(query, key_weight).mT @ grad_asked
            torch.bmm(grad_scores, asked, out=grad_key)
            if ctx.one_fused:
                grad_value.baddbmm_(weight, grad_pooled)
            else:
                torch.bmm(weight, grad_pooled, out=grad_value)
        return grad_queries, grad_keys, None if ctx.one_fused else grad_values, grad_key_weight, grad_value_weight


def _blocks(tensors: tuple[Tensor, ...], weight: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors a block of pixels at a time; the second one is of the keys."""
    heads, channels = len(weight), weight.shape[2]
    length = max(BLOCK // ((tensors[1].shape[1] + 2 * heads) * channels), 1)
    return zip(*(each.split(length) for each in tensors))
