"""The task head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_maps, check_positive
from demt.ops.resize import resize


class TaskHead(nn.Module):
    """Conv3×3 (no bias), BN, ReLU, Conv1×1 to the task's channels, bilinear upsampling.

    Args:
        channels: Channels D of the input map.
        out_channels: The task's channels.
        hidden_channels: Width between the convolutions; D by default.

    Shape:
        (B, D, h, w) to (B, out_channels, *size).

    Example:
        >>> import torch
        >>> TaskHead(8, 3)(torch.randn(2, 8, 4, 5), size=(16, 20)).shape
        torch.Size([2, 3, 16, 20])
    """

    def __init__(self, channels: int, out_channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden_channels = channels if hidden_channels is None else hidden_channels
        check_positive(channels=channels, out_channels=out_channels, hidden_channels=hidden_channels)
        self.channels = channels
        self.conv = nn.Conv2d(channels, hidden_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden_channels)
        self.logits = nn.Conv2d(hidden_channels, out_channels, 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        assert self.logits.bias is not None
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits at `size` (H, W), or at the map's own size."""
        check_maps("x", x, self.channels, (4,))
        logits: Tensor = self.logits(F.relu(self.norm(self.conv(x))))
        return logits if size is None else resize(logits, size)
