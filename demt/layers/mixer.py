"""The deformable mixer encoder: channel-aware mixing, then the spatial-aware deformable operator."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_maps, check_positive
from demt.layers.deformable import InitialOffsets, SpatialDeformable
from demt.layers.rows import by_rows
from demt.layers.tokens import channels_first, channels_last
from demt.ops import linear


class ChannelMixer(nn.Module):
    """Channel-aware mixing: BN(GELU(Conv1×1(x))). DeMT (arXiv 2301.03461), equation 2.

    Args:
        channels: Channels of the input map.
        out_channels: Channels of the output map; as the input by default.

    Shape:
        (B, channels, H, W) to (B, out_channels, H, W).

    Example:
        >>> import torch
        >>> ChannelMixer(8, 16)(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_positive(channels=channels, out_channels=out_channels)
        self.channels = channels
        self.conv = nn.Conv2d(channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        check_maps("x", x, self.channels, (4,))
        return by_rows(lambda x: [self.norm(F.gelu(self._mix(x)))], [x], self)[0]

    def _mix(self, x: Tensor) -> Tensor:
        return channels_first(linear(channels_last(x), self.conv.weight[..., 0, 0], self.conv.bias))


class DeformableMixerBlock(nn.Module):
    """One step of the encoder: x ← ChannelMixer(x), then x ← x + BN(GELU(SpatialDeformable(x)))."""

    def __init__(
        self, channels: int, *, offset_groups: int | None = None, initial_offsets: InitialOffsets = "released"
    ) -> None:
        super().__init__()
        self.channel = ChannelMixer(channels)
        self.spatial = SpatialDeformable(channels, offset_groups=offset_groups, initial_offsets=initial_offsets)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel(x)
        moved = self.spatial(x)
        return by_rows(lambda x, moved: [x + self.norm(F.gelu(moved))], [x, moved], self, reuse=[moved])[0]


class DeformableMixer(nn.Module):
    """The deformable mixer encoder of one task: `depth` blocks. DeMT (arXiv 2301.03461), figure 2 and equations 2-4.

    Args:
        channels: Channels D of the map.
        depth: Number of blocks (released: 1 in DeMT, 2 in DeMTG and DeGMix).
        offset_groups, initial_offsets: See `SpatialDeformable`.

    Shape:
        (B, D, H, W) to (B, D, H, W).

    Example:
        >>> import torch
        >>> DeformableMixer(8, depth=2)(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        *,
        depth: int = 1,
        offset_groups: int | None = None,
        initial_offsets: InitialOffsets = "released",
    ) -> None:
        super().__init__()
        check_positive(channels=channels, depth=depth)
        self.blocks = nn.Sequential(
            *(
                DeformableMixerBlock(channels, offset_groups=offset_groups, initial_offsets=initial_offsets)
                for _ in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out
