"""Attention of a task's map to the fused maps of all tasks, without forming what its formula names.

Each function takes x (B, D, H, W), whose pixels are the queries, and fused (B, T, D, H, W), whose pixels are the keys
and values, and returns (B, D, H, W). `query`, `key`, `value` and `out` are layers as `demt.ops.per_pixel` takes them:
norms first, linear layers last. What is computed is spelled out in `demt.ops.reference.attention_reference`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from demt.ops.pointwise import are_plain, channels_first, channels_last, compose, per_pixel
from demt.ops.reference import attention_reference
from demt.ops.runtime import is_training_step_on_cpu, standard_operators_are_asked, without_autocast

Layers: TypeAlias = Sequence[Any]

_KNOWN = (nn.Linear, nn.LayerNorm, nn.Identity)

#: Numbers that a block of pixels may have in the making, so that they stay in the processor's cache.
BLOCK = 1 << 19


def pixel_attention(
    x: Tensor, fused: Tensor, query: Layers, key: Layers, value: Layers, out: Layers, heads: int
) -> Tensor:
    """Softmax attention of every pixel to the T tokens of the same pixel.

    Keys and values are never formed: q·(Wk f) = (Wkᵀ q)·f, and Σ a (Wv f) = Wv Σ a f, so that the products are with one
    vector a pixel instead of T.
    """
    if not are_plain([*query, *key, *value], *_KNOWN):
        return attention_reference(x, fused, query, key, value, out, heads, "pixelwise")
    (*key_norms, key_layer), (*value_norms, value_layer) = key, value
    if all(type(each) is nn.Identity for each in (*key_norms, *value_norms)):
        keys = values = channels_last(fused).flatten(0, 2)
    else:
        keys, values = (channels_last(per_pixel(fused, *norms)).flatten(0, 2) for norms in (key_norms, value_norms))
    asked = channels_last(per_pixel(x, *query))
    attended = attend_to_pixel(asked.flatten(0, 2), keys, values, key_layer.weight, value_layer.weight, heads)
    if value_layer.bias is not None:
        attended = attended + value_layer.bias
    return per_pixel(channels_first(attended.view(asked.shape)), *out)


def pixel_attentions(
    maps: Sequence[Tensor],
    fused: Tensor,
    queries: Sequence[Layers],
    keys: Sequence[Layers],
    values: Sequence[Layers],
    outs: Sequence[Layers],
    heads: int,
) -> list[Tensor]:
    """`pixel_attention` of several maps to the same tokens, the heads of all of them together.

    Runtimes take the small products of a pixel one pixel after the other: fewer and larger ones are faster.
    """
    layers = (*queries, *keys, *values)
    plain = all(type(norm) is nn.Identity for each in (*keys, *values) for norm in each[:-1])
    if not plain or not are_plain(itertools.chain(*layers), *_KNOWN) or any(each[-1].bias is None for each in values):
        return [
            pixel_attention(x, fused, query, key, value, out, heads)
            for x, query, key, value, out in zip(maps, queries, keys, values, outs, strict=True)
        ]
    tokens = channels_last(fused).flatten(0, 2)
    asked = torch.cat([channels_last(per_pixel(x, *query)) for x, query in zip(maps, queries)], -1)
    key_weight, value_weight = (torch.cat([each[-1].weight for each in side]) for side in (keys, values))
    attended = attend_to_pixel(asked.flatten(0, 2), tokens, tokens, key_weight, value_weight, heads * len(maps))
    attended = attended + torch.cat([value[-1].bias for value in values])
    parts = attended.view(asked.shape).chunk(len(maps), -1)
    return [per_pixel(channels_first(part), *out) for part, out in zip(parts, outs)]


def linear_attention(
    x: Tensor, fused: Tensor, query: Layers, key: Layers, value: Layers, out: Layers, heads: int
) -> Tensor:
    """Attention without softmax, Q (KᵀV) / √d, over all T·H·W tokens of an image.

    Without softmax the sum over the tokens comes first, and layers on either side of it are matrices: with G = Σ f fᵀ
    over the normalised tokens f, KᵀV = Wk G Wvᵀ, and a pixel is multiplied with one D×D matrix an image. That matrix
    is float32 at least: the sums over thousands of tokens are large and nearly equal, too much for half precision.
    """
    projections = (query, key, value)
    folds = all([type(layer) for layer in each] == [nn.LayerNorm, nn.Linear] for each in projections)
    known = folds and are_plain(itertools.chain(*projections, out), *_KNOWN)
    if not known or any(each[1].bias is not None for each in projections):
        return attention_reference(x, fused, query, key, value, out, heads, "linear")
    (query_norm, query_layer), (key_norm, key_layer), (value_norm, value_layer) = projections
    with without_autocast(x.device):
        gram = token_gram(fused)
        keys, values = (
            rearrange(_with_norm(layer, norm, gram.dtype), "(n d) c -> n d c", n=heads)
            for norm, layer in ((key_norm, key_layer), (value_norm, value_layer))
        )
        key_value = keys @ gram[:, None] @ values.mT * (x.shape[1] // heads) ** -0.5  # (B, heads, d, d)
        into_query = rearrange(query_layer.weight.to(gram), "(n d) c -> n c d", n=heads)
        weight, bias = compose(out)
        folded = rearrange(into_query @ key_value, "b n c d -> b c (n d)") @ weight.to(gram).mT
        dtype = query_norm.weight.dtype
        queries = query_norm(channels_last(x).to(dtype)).to(gram).flatten(1, 2)
        attended = queries @ folded if bias is None else queries @ folded + bias.to(gram)
        return channels_first(attended.view(channels_last(x).shape).to(dtype))


def global_attention(
    x: Tensor, fused: Tensor, query: Layers, key: Layers, value: Layers, out: Layers, heads: int
) -> Tensor:
    """Softmax attention over all T·H·W tokens of an image; torch's fused kernel never holds the scores.

    x may be stacked maps (B, T, D, H, W) as well.
    """
    q, k, v = (
        rearrange(channels_last(per_pixel(maps, *layers)).flatten(1, -2), "b m (n d) -> b n m d", n=heads)
        for maps, layers in ((x, query), (fused, key), (fused, value))
    )
    attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b n m d -> b m (n d)")
    return per_pixel(channels_first(attended.view(channels_last(x).shape)), *out)


def token_gram(fused: Tensor) -> Tensor:
    """Second moments of tokens: Σ f fᵀ, (B, D + 1, D + 1), in float32 or float64.

    f are the tokens of fused (B, T, D, H, W), normalised over D (without affine), with a 1 appended.
    """
    with without_autocast(fused.device):
        tokens = channels_last(fused).flatten(1, -2)
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        tokens = F.pad(F.layer_norm(tokens, tokens.shape[-1:]), (0, 1), value=1.0)
        return tokens.mT @ tokens


def _with_norm(layer: nn.Linear, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Weight (D, D + 1) that maps normalised tokens with a 1 appended to layer(norm(token))."""
    weight = layer.weight.to(dtype)
    return torch.cat([weight * norm.weight.to(dtype), (weight @ norm.bias.to(dtype))[:, None]], dim=1)


def attend_to_pixel(
    queries: Tensor, keys: Tensor, values: Tensor, key_weight: Tensor, value_weight: Tensor, heads: int
) -> Tensor:
    """softmax((Wk keys) queries / √d) over the T tokens of a pixel, times (Wv values): (P, D).

    Keys and values are never formed: q·(Wk f) = (Wkᵀ q)·f, and Σ a (Wv f) = Wv Σ a f, so that the products are with one
    vector a pixel and head instead of T. For gradients in a training step on a CPU the scores alone are kept.
    """
    scale = (queries.shape[1] // heads) ** -0.5
    into_keys = key_weight.view(heads, -1, key_weight.shape[1])
    from_values = value_weight.view(heads, -1, value_weight.shape[1])
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
