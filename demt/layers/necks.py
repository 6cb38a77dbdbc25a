"""Necks [1]: the levels of a backbone to one map of width D. Those of the papers; others are in `pyramids.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from demt.ops import convolve_levels, per_pixel, project_levels, resize
from demt.ops.checks import check_maps, check_positive


class Neck(nn.Module):
    """Base of the necks: knows its input channels and checks the levels.

    Raises:
        ValueError: for channels below 1, or levels whose number, shapes or dtypes do not fit.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        if not isinstance(in_channels, Sequence) or not in_channels:
            raise ValueError(f"Expected `in_channels` to have one entry per level, got {in_channels!r}")
        check_positive(channels=channels, **{f"in_channels[{i}]": c for i, c in enumerate(in_channels)})
        self.in_channels, self.channels = tuple(in_channels), channels

    def _check(self, levels: Sequence[Tensor]) -> None:
        if len(levels) != len(self.in_channels):
            raise ValueError(f"Expected {len(self.in_channels)} `levels`, got {len(levels)}")
        for i, (level, channels) in enumerate(zip(levels, self.in_channels)):
            check_maps(f"levels[{i}]", level, channels, (4,))
            if level.shape[0] != levels[0].shape[0]:
                raise ValueError(f"Expected `levels` of the same batch, got {[lvl.shape[0] for lvl in levels]}")


class LinearNeck(Neck):
    """F = LayerNorm(Linear(concatenated levels)), all levels upsampled (bilinear) to the first [1]. DeMT and DeMTG.

    Args:
        in_channels: Channels C_i of the levels.
        channels: Output channels D.

    Shape:
        Maps (B, C_i, H_i, W_i), finest first, to (B, D, H_0, W_0).

    Raises:
        ValueError: see `Neck`.

    Example:
        >>> import torch
        >>> LinearNeck([4, 8], 16)([torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)]).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__(in_channels, channels)
        self.proj = nn.Linear(sum(in_channels), channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        self._check(levels)
        return per_pixel(project_levels(levels, self.proj), self.norm)


class PatchNeck(Neck):
    """LayerNorm(Conv p×p stride p) of the concatenated levels, upsampled (bilinear) to the first. DeGMix, p = 4.

    The map is zero-padded at the bottom and right to a multiple of p.

    Args:
        in_channels: Channels C_i of the levels.
        channels: Output channels D.
        patch_size: p.

    Shape:
        Maps (B, C_i, H_i, W_i), finest first, to (B, D, ceil(H_0 / p), ceil(W_0 / p)).

    Raises:
        ValueError: for a `patch_size` below 1; see `Neck`.

    Example:
        >>> import torch
        >>> PatchNeck([4, 8], 16)([torch.randn(2, 4, 6, 8), torch.randn(2, 8, 3, 4)]).shape
        torch.Size([2, 16, 2, 2])
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, patch_size: int = 4) -> None:
        super().__init__(in_channels, channels)
        check_positive(patch_size=patch_size)
        self.patch_size = patch_size
        self.proj = nn.Conv2d(sum(in_channels), channels, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        self._check(levels)
        return per_pixel(convolve_levels(levels, self.proj), self.norm)


class TapNeck(Neck):
    """Taps of a plain ViT to one finer map. DeGMix on ViT: each tap through two Conv3×3(hidden)+BN+ReLU, bilinear
    upsampling, concatenation, two Conv3×3(D)+BN+ReLU; convolutions without bias.

    Args:
        in_channels: Channels of the taps.
        channels: Output channels D.
        hidden_channels: Width per tap (released: 128; D/2 by default).
        scale: Upsampling factor (4: from stride 16 to stride 4).

    Shape:
        Maps (B, C_i, H, W) of one size, to (B, D, scale·H, scale·W).

    Raises:
        ValueError: for a `hidden_channels` or `scale` below 1; see `Neck`.

    Example:
        >>> import torch
        >>> TapNeck([4, 4], 16)([torch.randn(2, 4, 3, 3)] * 2).shape
        torch.Size([2, 16, 12, 12])
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, hidden_channels: int | None = None, scale: int = 4
    ) -> None:
        super().__init__(in_channels, channels)
        hidden = max(channels // 2, 1) if hidden_channels is None else hidden_channels
        check_positive(hidden_channels=hidden, scale=scale)
        self.scale = scale
        self.taps = nn.ModuleList(conv_twice(width, hidden) for width in in_channels)
        self.fuse = conv_twice(hidden * len(in_channels), channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        self._check(levels)
        height, width = levels[0].shape[-2:]
        size = (self.scale * height, self.scale * width)
        out: Tensor = self.fuse(torch.cat([resize(tap(level), size) for tap, level in zip(self.taps, levels)], dim=1))
        return out


def conv_twice(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    """Two Conv3×3 (no bias), BN, ReLU, the first of this stride."""
    layers: list[nn.Module] = []
    for width, step in ((in_channels, stride), (channels, 1)):
        convolution = nn.Conv2d(width, channels, 3, stride=step, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)
