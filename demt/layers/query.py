"""The task query block: one task's map asks the fused maps of all tasks."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_choice, check_divides, check_maps
from demt.layers.linear import Linear
from demt.layers.tokens import channels_first, channels_last
from demt.ops import linear
from demt.ops.autocast import without_autocast

QueryAttention = Literal["pixelwise", "linear", "global"]


class TaskQueryBlock(nn.Module):
    """z = x + LayerNorm(Linear(Attention(x, F, F))): queries from a task's map x, keys and values from the fused
    tokens F of all tasks. DeMT (arXiv 2301.03461), equations 6-7.

    Args:
        channels: Channels D of the maps.
        heads: Attention heads (released: 4 in DeMT, 2 in DeMTG and DeGMix).
        attention: ``"pixelwise"``: the query at a pixel attends (softmax) to the T fused tokens of that pixel (released
            DeMT, DeMTG); ``"linear"``: no softmax, Q·(KᵀV)·scale over all T·H·W tokens (released DeGMix);
            ``"global"``: softmax attention over all T·H·W tokens (papers).
        pre_norm: LayerNorm on the inputs of the query, key and value projections, which then have no bias, as in
            DeGMix. By default only with ``"linear"``, which needs it.

    Shape:
        x (B, D, H, W) and fused (B, T, D, H, W), or (B, D, H, W) for one task, to (B, D, H, W). Every image of a batch
        attends to its own tokens only.

    Example:
        >>> import torch
        >>> block = TaskQueryBlock(8, heads=2, attention="linear")
        >>> block(torch.randn(2, 8, 5, 7), torch.randn(2, 3, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 4,
        attention: QueryAttention = "pixelwise",
        pre_norm: bool | None = None,
    ) -> None:
        super().__init__()
        check_divides("heads", heads, "channels", channels)
        check_choice("attention", attention, ("pixelwise", "linear", "global"))
        pre_norm = attention == "linear" if pre_norm is None else pre_norm
        if attention == "linear" and not pre_norm:
            raise ValueError("Expected `pre_norm` to be True with attention='linear', got False")
        self.channels, self.heads, self.attention = channels, heads, attention
        self.norm_query, self.norm_key, self.norm_value = (
            nn.LayerNorm(channels) if pre_norm else nn.Identity() for _ in range(3)
        )
        self.query = Linear(channels, channels, bias=not pre_norm)
        # A key bias adds the same to all scores of a query: softmax cancels it.
        self.key = Linear(channels, channels, bias=False)
        self.value = Linear(channels, channels, bias=not pre_norm)
        self.proj = Linear(channels, channels)
        self.linear = Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, fused: Tensor, *, gram: Tensor | None = None) -> Tensor:
        """Attend. `gram`, for ``"linear"`` only, is `token_gram(fused)` where several blocks share it."""
        check_maps("x", x, self.channels, (4,))
        check_maps("fused", fused, self.channels, (4, 5))
        fused = fused[:, None] if fused.ndim == 4 else fused
        if (x.shape[0], *x.shape[-2:]) != (fused.shape[0], *fused.shape[-2:]):
            raise ValueError(
                f"Expected `x` and `fused` of the same batch and size, got {tuple(x.shape)} and {tuple(fused.shape)}"
            )
        size = (x.shape[0], self.channels + 1, self.channels + 1)
        if gram is not None and (self.attention != "linear" or gram.shape != size):
            raise ValueError(
                f"Expected `gram` of shape {size} and only with attention='linear', got {tuple(gram.shape)}"
            )
        query, tokens = channels_last(x), channels_last(fused)
        if self.attention == "linear":
            attended = self._linear(query, tokens, gram)
        else:
            attended = self._pixelwise(query, tokens) if self.attention == "pixelwise" else self._global(query, tokens)
        return x + channels_first(self.norm(attended))

    def composed(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the two linear maps behind the attention as one."""
        return self.linear.weight @ self.proj.weight, self.linear.weight @ self.proj.bias + self.linear.bias

    def _out(self, attended: Tensor) -> Tensor:
        return linear(attended, *self.composed())

    def _pixelwise(self, x: Tensor, fused: Tensor) -> Tensor:
        """Keys and values of the T tokens are never projected: q·(Wk f) = (Wkᵀ q)·f, and Σ a (Wv f) = Wv Σ a f."""
        keys, values = (norm(fused).flatten(0, 2) for norm in (self.norm_key, self.norm_value))  # (pixels, T, D)
        scale = (self.channels // self.heads) ** -0.5
        queries = rearrange(self.query(self.norm_query(x)) * scale, "b h w (n d) -> n (b h w) d", n=self.heads)
        key_weight = rearrange(self.key.weight, "(n d) c -> n c d", n=self.heads)
        value_weight = rearrange(self.value.weight, "(n d) c -> n d c", n=self.heads)
        # All heads of a pixel in one small product over its T tokens.
        asked = torch.stack([linear(query, into_key) for query, into_key in zip(queries, key_weight)], dim=1)
        weights = torch.bmm(keys, asked.mT).softmax(1)  # (pixels, T, heads)
        pooled = torch.bmm(weights.mT, values).unbind(1)
        attended = torch.cat([linear(each, from_value) for each, from_value in zip(pooled, value_weight)], dim=-1)
        attended = attended.view(x.shape)
        return self._out(attended if self.value.bias is None else attended + self.value.bias)

    def _linear(self, x: Tensor, fused: Tensor, gram: Tensor | None) -> Tensor:
        """Q·(KᵀV) with all projections folded into one D×D matrix per image: no keys and values of tokens exist."""
        with without_autocast(x.device):
            gram = token_gram(channels_first(fused)) if gram is None else gram
            key, value = (
                rearrange(_with_norm(layer, norm, gram.dtype), "(n d) c -> n d c", n=self.heads)
                for layer, norm in ((self.key, self.norm_key), (self.value, self.norm_value))
            )
            scale = (self.channels // self.heads) ** -0.5
            key_value = key @ gram[:, None] @ value.mT * scale  # (B, heads, d, d)
            query = rearrange(self.query.weight.to(gram), "(n d) c -> n c d", n=self.heads)
            weight, bias = (each.to(gram) for each in self.composed())
            folded = rearrange(query @ key_value, "b n c d -> b c (n d)") @ weight.mT
            # Without softmax the sums over thousands of tokens are large and nearly equal: too much for half precision.
            dtype = self.norm.weight.dtype
            queries = self.norm_query(x.to(dtype)).to(gram).flatten(1, 2)
            return (queries @ folded + bias).view(x.shape).to(dtype)

    def _global(self, x: Tensor, fused: Tensor) -> Tensor:
        queries = self.query(self.norm_query(x)).flatten(1, 2)
        keys, values = (
            layer(norm(fused)).flatten(1, 3)
            for layer, norm in ((self.key, self.norm_key), (self.value, self.norm_value))
        )
        query, key, value = (rearrange(t, "b m (n d) -> b n m d", n=self.heads) for t in (queries, keys, values))
        attended = rearrange(F.scaled_dot_product_attention(query, key, value), "b n m d -> b m (n d)")
        return self._out(attended).view(x.shape)


def token_gram(fused: Tensor) -> Tensor:
    """Second moments of the fused tokens, all that ``"linear"`` attention needs of them.

    With f the tokens (B, T, D, H, W) normalised over D (no affine) and a 1 appended: Σ f fᵀ, (B, D + 1, D + 1), in
    float32 or float64. Query blocks over the same fused maps can share it.
    """
    with without_autocast(fused.device):
        tokens = channels_last(fused).flatten(1, -2)
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        tokens = F.pad(F.layer_norm(tokens, tokens.shape[-1:]), (0, 1), value=1.0)
        return tokens.mT @ tokens


def _with_norm(layer: nn.Linear, norm: nn.Module, dtype: torch.dtype) -> Tensor:
    """Weight (D, D + 1) that maps normalised tokens with a 1 appended to layer(norm(token))."""
    assert isinstance(norm, nn.LayerNorm)
    weight = layer.weight.to(dtype)
    return torch.cat([weight * norm.weight.to(dtype), (weight @ norm.bias.to(dtype))[:, None]], dim=1)
