"""The spatial-aware deformable operator: a 1×1 deformable convolution with one offset per channel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.checks import check_choice, check_divides, check_maps, check_positive
from demt.ops import deform_mix
from demt.ops.autocast import without_autocast

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
        hidden = self._hidden(x)
        with without_autocast(x.device):
            return F.conv2d(hidden, *self._offset_parameters(hidden), padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        check_maps("x", x, self.channels, (4,))
        hidden = self._hidden(x)
        # The 2D offset channels are made and used piece by piece, never stored.
        return deform_mix(x, hidden, *self._offset_parameters(hidden), self.proj.weight[..., 0, 0], self.proj.bias)

    def _hidden(self, x: Tensor) -> Tensor:
        with without_autocast(x.device):
            dtype = torch.promote_types(x.dtype, torch.float32)
            weight, bias = self.position.weight.to(dtype), self.position.bias
            u = F.conv2d(x.to(dtype), weight, None if bias is None else bias.to(dtype), padding=1)
            return u + neighbourhood_grid(x.shape[-2], x.shape[-1], dtype, x.device)

    def _offset_parameters(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        bias = self.offset.bias
        return self.offset.weight.to(like), None if bias is None else bias.to(like)


def neighbourhood_grid(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The 18-channel grid g (1, 18, H, W): 1-based rows i + dy, then columns j + dx, of the 3×3 neighbours in order."""
    step = torch.arange(-1, 2, dtype=dtype, device=device)
    rows = torch.arange(1, height + 1, dtype=dtype, device=device).view(1, height, 1) + step.repeat_interleave(3).view(
        9, 1, 1
    )
    columns = torch.arange(1, width + 1, dtype=dtype, device=device).view(1, 1, width) + step.repeat(3).view(9, 1, 1)
    return torch.cat([rows.expand(9, height, width), columns.expand(9, height, width)])[None]
