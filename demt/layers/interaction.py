"""The task interaction block: fuses the maps of all tasks."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_choice, check_divides, check_maps
from demt.layers.linear import Linear
from demt.layers.tokens import channels_first, channels_last
from demt.ops import linear

InteractionAttention = Literal["pointwise", "global"]


class TaskInteractionBlock(nn.Module):
    """LayerNorm(Linear(MHSA(S))) over the tokens S of all tasks. DeMT (arXiv 2301.03461), equation 5.

    Args:
        channels: Channels D of the maps.
        heads: Attention heads (``"global"`` only uses them; released: 4 in DeMT, 2 in DeMTG and DeGMix).
        attention: ``"global"``: self-attention over all T·H·W tokens of an image, as in the papers;
            ``"pointwise"``: each token attends to itself alone, which is what the released models compute. The
            attention is then its value and output projection, and the block has no query and key parameters.

    Shape:
        Task-stacked (B, T, D, H, W), or (B, D, H, W) for one task, to the same shape.

    Example:
        >>> import torch
        >>> TaskInteractionBlock(8, heads=2, attention="global")(torch.randn(2, 3, 8, 5, 7)).shape
        torch.Size([2, 3, 8, 5, 7])
    """

    def __init__(self, channels: int, *, heads: int = 4, attention: InteractionAttention = "pointwise") -> None:
        super().__init__()
        check_divides("heads", heads, "channels", channels)
        check_choice("attention", attention, ("pointwise", "global"))
        self.channels, self.heads, self.attention = channels, heads, attention
        if attention == "global":
            self.query = Linear(channels, channels)
            # A key bias adds the same to all scores of a query: softmax cancels it.
            self.key = Linear(channels, channels, bias=False)
        self.value = Linear(channels, channels)
        self.proj = Linear(channels, channels)
        self.linear = Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, stacked: Tensor) -> Tensor:
        check_maps("stacked", stacked, self.channels, (4, 5))
        tokens = channels_last(stacked)
        fused = self._pointwise(tokens) if self.attention == "pointwise" else self._global(tokens)
        return channels_first(self.norm(fused))

    def _pointwise(self, tokens: Tensor) -> Tensor:
        return linear(tokens, *self.composed())

    def composed(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the ``"pointwise"`` mode as one map.

        Three linear maps in a row are one: composing D×D matrices costs less than two more passes over the tokens.
        """
        weight = self.linear.weight @ self.proj.weight
        bias = weight @ self.value.bias + self.linear.weight @ self.proj.bias + self.linear.bias
        return weight @ self.value.weight, bias

    def _global(self, tokens: Tensor) -> Tensor:
        flat = tokens.reshape(tokens.shape[0], -1, self.channels)
        query, key, value = (
            rearrange(layer(flat), "b n (h d) -> b h n d", h=self.heads) for layer in (self.query, self.key, self.value)
        )
        attended = rearrange(F.scaled_dot_product_attention(query, key, value), "b h n d -> b n (h d)")
        out: Tensor = self.linear(self.proj(attended))
        return out.view(tokens.shape)
