"""Attention of a task's map to the fused maps of all tasks, without forming what its formula names.

Each function takes x (B, D, H, W), whose pixels are the queries, and fused (B, T, D, H, W), whose pixels are the keys
and values, and returns (B, D, H, W). `query`, `key`, `value` and `out` are layers as `demt.ops.per_pixel` takes them:
norms first, linear layers last. What is computed is spelled out in `demt.ops.reference.attention_reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

from demt.ops.attend import attend_to_pixel
from demt.ops.checks import without_autocast
from demt.ops.pointwise import channels_first, channels_last, compose, is_plain, per_pixel
from demt.ops.reference import attention_reference

Layers: TypeAlias = Sequence[Any]


def pixel_attention(
    x: Tensor, fused: Tensor, query: Layers, key: Layers, value: Layers, out: Layers, heads: int
) -> Tensor:
    """Softmax attention of every pixel to the T tokens of the same pixel.

    Keys and values are never formed: q·(Wk f) = (Wkᵀ q)·f, and Σ a (Wv f) = Wv Σ a f, so that the products are with one
    vector a pixel instead of T.
    """
    if not _known(query, key, value):
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
    if not (plain and _known(*layers)) or any(each[-1].bias is None for each in values):
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
    if not folds or not _known(*projections, out) or any(each[1].bias is not None for each in projections):
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


def _known(*layers: Layers) -> bool:
    return all(is_plain(layer, nn.Linear, nn.LayerNorm, nn.Identity) for each in layers for layer in each)


def _flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


# Torch's counter of FLOPs knows the fused attention of GPUs, but in some versions not that of CPUs.
for _operator, _formula in (
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, _flops),
    (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, _backward_flops),
):
    if _operator not in flop_registry:
        register_flop_formula(_operator)(_formula)
