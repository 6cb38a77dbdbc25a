"""The spatial-aware deformable operator: a 1×1 deformable convolution with one offset per channel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_choice, check_divides, check_maps, check_positive
from demt.ops import deform_sample

InitialOffsets = Literal["released", "zero"]


class SpatialDeformable(nn.Module):
    """Deformable 1×1 convolution whose offsets come from the map itself and from its coordinates.

    With u = Conv3×3(x) (18 channels, weight initially zero) and g the 3×3 neighbourhood's 1-based rows and columns
    (9 + 9 channels), offsets are Δ = Conv3×3(u + g), in two groups: the first half of the offset channels sees rows,
    the second half columns. Channel c of group k is sampled bilinearly at (i + Δ[2k], j + Δ[2k + 1]), zero outside
    the map, and the sampled channels are mixed by a 1×1 convolution.
    DeMT (arXiv 2301.03461), section "Deformable mixer encoder", equations 3-4, as its released models compute it.

    Args:
        channels: Channels D of the input map.
        out_channels: Channels of the output map; D by default.
        offset_groups: Number of channel groups that share an offset; by default D (one offset per channel).
        initial_offsets: ``"released"``: the default initialisation of a convolution, with which offsets start large,
            the more so the larger the map; ``"zero"``: sampling starts at the pixel itself.

    Shape:
        (B, D, H, W) to (B, out_channels, H, W), any H and W from 1.

    Raises:
        ValueError: if `offset_groups` does not divide `channels`, or the input's shape or dtype does not fit.

    Example:
        >>> import torch
        >>> SpatialDeformable(8, 16, initial_offsets="zero")(torch.randn(2, 8, 5, 7)).shape
        torch.Size([2, 16, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        offset_groups: int | None = None,
        initial_offsets: InitialOffsets = "released",
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        offset_groups = channels if offset_groups is None else offset_groups
        check_positive(channels=channels, out_channels=out_channels)
        check_divides("offset_groups", offset_groups, "channels", channels)
        check_choice("initial_offsets", initial_offsets, ("released", "zero"))
        self.channels = channels
        self.position = nn.Conv2d(channels, 18, 3, padding=1)
        self.offset = nn.Conv2d(18, 2 * offset_groups, 3, padding=1, groups=2)
        self.proj = nn.Conv2d(channels, out_channels, 1)
        nn.init.zeros_(self.position.weight)
        if initial_offsets == "zero":
            for parameter in (self.position.bias, self.offset.weight, self.offset.bias):
                assert parameter is not None
                nn.init.zeros_(parameter)

    def offsets(self, x: Tensor) -> Tensor:
        """Offsets (B, 2·groups, H, W) in pixels; float32 at least, as half precision cannot hold coordinates."""
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            hidden = _conv(self.position, x.to(dtype)) + neighbourhood_grid(x.shape[-2], x.shape[-1], dtype, x.device)
            return _conv(self.offset, hidden)

    def forward(self, x: Tensor) -> Tensor:
        check_maps("x", x, self.channels, (4,))
        offset = self.offsets(x)
        with torch.autocast(x.device.type, enabled=False):
            sampled = deform_sample(x.to(offset.dtype), offset).to(x.dtype)
        out: Tensor = self.proj(sampled)
        return out


def neighbourhood_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The 18-channel grid g (1, 18, H, W): 1-based rows i + dy, then columns j + dx, of the 3×3 neighbours in order."""
    step = torch.arange(-1, 2, dtype=dtype, device=device)
    rows = torch.arange(1, height + 1, dtype=dtype, device=device).view(1, height, 1) + step.repeat_interleave(3).view(
        9, 1, 1
    )
    columns = torch.arange(1, width + 1, dtype=dtype, device=device).view(1, 1, width) + step.repeat(3).view(9, 1, 1)
    return torch.cat([rows.expand(9, height, width), columns.expand(9, height, width)])[None]


def _conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    return F.conv2d(x, conv.weight.to(x.dtype), bias, conv.stride, conv.padding, conv.dilation, conv.groups)
