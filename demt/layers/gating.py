"""Gating attention over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_maps, check_positive
from demt.layers.linear import Linear
from demt.layers.tokens import channels_first, channels_last


class GatingAttention(nn.Module):
    """Gated feed-forward block with residual, per pixel: with a, b the halves of GELU(Linear(LN(z))),
    z ← z + Linear(a ⊙ (W·LN(b) + c)), W initially 0 and c initially 1. DeMTG and DeGMix (arXiv 2308.05721).

    Args:
        channels: Channels D of the map.
        hidden_channels: Width of the hidden layer before it is split in two (2·D by default; even).

    Shape:
        (B, D, H, W) or task-stacked (B, T, D, H, W), to the same shape.

    Example:
        >>> import torch
        >>> GatingAttention(8)(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(self, channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden_channels = 2 * channels if hidden_channels is None else hidden_channels
        check_positive(channels=channels, hidden_channels=hidden_channels)
        if hidden_channels % 2:
            raise ValueError(f"Expected `hidden_channels` to be even, got {hidden_channels}")
        self.channels = channels
        half = hidden_channels // 2
        self.norm = nn.LayerNorm(channels)
        self.expand = Linear(channels, hidden_channels)
        self.gate_norm = nn.LayerNorm(half)
        self.gate = Linear(half, half)
        self.proj = Linear(half, channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, z: Tensor) -> Tensor:
        check_maps("z", z, self.channels, (4, 5))
        tokens = channels_last(z)
        values, gates = torch.chunk(F.gelu(self.expand(self.norm(tokens))), 2, dim=-1)
        return z + channels_first(self.proj(values * self.gate(self.gate_norm(gates))))
