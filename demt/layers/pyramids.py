"""Necks from other papers: feature pyramids, and similar necks for plain ViTs, to one map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.necks import Neck
from demt.ops import deform_sample, per_pixel, resize
from demt.ops.checks import check_divides, check_positive


class FPNNeck(Neck):
    """Feature pyramid (Lin et al., CVPR 2017), its maps summed at the finest size (Kirillov et al., CVPR 2019).

    From the coarsest level up: M_i = Conv1×1(C_i) + nearest(M_{i+1}). Then LayerNorm(Σ_i bilinear(Conv3×3(M_i))). The
    pyramid is `torchvision.ops.FeaturePyramidNetwork`; written here, so that the blocks need only torch and einops.

    Args:
        in_channels: Channels C_i of the levels.
        channels: Output channels D.

    Shape:
        Maps (B, C_i, H_i, W_i), finest first, to (B, D, H_0, W_0).

    Raises:
        ValueError: see `Neck`.

    Example:
        >>> import torch
        >>> FPNNeck([4, 8], 16)([torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)]).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__(in_channels, channels)
        self.lateral = nn.ModuleList(self._lateral(width) for width in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        self._check(levels)
        laterals = [lateral(level) for lateral, level in zip(self.lateral, levels)]
        size = laterals[0].shape[-2:]
        coarser = laterals[-1]
        total = resize(self.smooth[-1](coarser), size)
        for i in reversed(range(len(laterals) - 1)):
            coarser = laterals[i] + self._enlarged(coarser, laterals[i], i)
            total = total + resize(self.smooth[i](coarser), size)
        return per_pixel(total, self.norm)

    def _lateral(self, in_channels: int) -> nn.Module:
        return nn.Conv2d(in_channels, self.channels, 1)

    def _enlarged(self, coarser: Tensor, lateral: Tensor, level: int) -> Tensor:
        """M_{level+1} at the size of the lateral map of `level`."""
        return F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest")


class PPMNeck(FPNNeck):
    """`FPNNeck` whose coarsest lateral is pyramid pooling, as in UPerNet (Xiao et al., ECCV 2018).

    That level is averaged over n×n bins, for each n of `bins`; each grid goes through Conv1×1(D)+ReLU and back to the
    level's size (bilinear), and Conv3×3(D)+ReLU joins all of them and the level itself (Zhao et al., CVPR 2017). There
    is no batch norm: a single image has one value per channel in the grid of one bin.

    Args:
        in_channels: Channels C_i of the levels.
        channels: Output channels D.
        bins: Bins along a side, of each grid.

    Shape:
        Maps (B, C_i, H_i, W_i), finest first, to (B, D, H_0, W_0).

    Raises:
        ValueError: for `bins` that are not integers from 1; see `Neck`.

    Example:
        >>> import torch
        >>> PPMNeck([4, 8], 16)([torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)]).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__(in_channels, channels)
        self.lateral[-1] = _PyramidPooling(in_channels[-1], channels, bins)


class FaPNNeck(FPNNeck):
    """`FPNNeck` with selected features and aligned levels (FaPN; Huang et al., ICCV 2021).

    A lateral is Conv1×1(C + C·σ(Conv1×1(mean(C)))), the mean over all pixels: feature selection. The coarser map U, now
    upsampled (bilinear), is sampled at the offsets Conv3×3([lateral, U]), in pixels, before it is added: feature
    alignment. One sample per pixel and group of channels, by `demt.ops.deform_sample`, stands for the paper's
    deformable convolution of 3×3 samples. Offsets start at zero.

    Args:
        in_channels: Channels C_i of the levels.
        channels: Output channels D.
        offset_groups: Groups of channels with offsets of their own; by default 8, as released, or the largest number
            that divides both 8 and D.

    Shape:
        Maps (B, C_i, H_i, W_i), finest first, to (B, D, H_0, W_0).

    Raises:
        ValueError: for `offset_groups` that do not divide `channels`; see `Neck`.

    Example:
        >>> import torch
        >>> FaPNNeck([4, 8], 16)([torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)]).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, offset_groups: int | None = None) -> None:
        super().__init__(in_channels, channels)
        groups = math.gcd(8, channels) if offset_groups is None else offset_groups
        check_divides("offset_groups", groups, "channels", channels)
        self.offsets = nn.ModuleList(nn.Conv2d(2 * channels, 2 * groups, 3, padding=1) for _ in in_channels[1:])
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def _lateral(self, in_channels: int) -> nn.Module:
        return _FeatureSelection(in_channels, self.channels)

    def _enlarged(self, coarser: Tensor, lateral: Tensor, level: int) -> Tensor:
        enlarged = resize(coarser, lateral.shape[-2:])
        return deform_sample(enlarged, self.offsets[level](torch.cat([lateral, enlarged], dim=1)))


class DPTNeck(Neck):
    """Taps of a plain ViT to one finer map: reassembly and residual fusion of DPT (Ranftl et al., ICCV 2021).

    Tap i goes through Conv1×1(D), is resized by scale / 2^i (a transposed or a strided convolution) and goes through
    Conv3×3(D). From the last to the first: x = Conv1×1(R'(R(tap) + bilinear(x))), with residual units
    R(x) = x + Conv3×3(ReLU(Conv3×3(ReLU(x)))); the last tap has no R. In the end a LayerNorm. Unlike DPT, maps of the
    taps have D channels throughout, and the first is not upsampled further.

    Args:
        in_channels: Channels of the taps.
        channels: Output channels D.
        scale: Upsampling factor, a power of two (4: from stride 16 to stride 4). None: the levels are a pyramid, and
            only a Conv3×3(D) stands before the fusion (as in DPT-Hybrid).

    Shape:
        Maps (B, C_i, H, W) of one size, to (B, D, scale·H, scale·W). Without a `scale`: maps (B, C_i, H_i, W_i), finest
        first, to (B, D, H_0, W_0).

    Raises:
        ValueError: for a `scale` that is no power of two; see `Neck`.

    Example:
        >>> import torch
        >>> DPTNeck([4, 4], 16)([torch.randn(2, 4, 3, 3)] * 2).shape
        torch.Size([2, 16, 12, 12])
    """

    def __init__(self, in_channels: Sequence[int], channels: int, *, scale: int | None = 4) -> None:
        super().__init__(in_channels, channels)
        if scale is not None:
            check_positive(scale=scale)
            if scale & (scale - 1):
                raise ValueError(f"Expected `scale` to be a power of two or None, got {scale}")
        self.reassemble = nn.ModuleList(
            _reassembly(width, channels, scale, 2**i) for i, width in enumerate(in_channels)
        )
        self.residual = nn.ModuleList(_ResidualUnit(channels) for _ in in_channels[1:])
        self.refine = nn.ModuleList(_ResidualUnit(channels) for _ in in_channels)
        self.project = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in in_channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        self._check(levels)
        maps = [reassemble(level) for reassemble, level in zip(self.reassemble, levels)]
        # A 1×1 convolution commutes with upsampling, so it comes before, at fewer pixels.
        x: Tensor = self.project[-1](self.refine[-1](maps[-1]))
        for i in reversed(range(len(maps) - 1)):
            x = self.residual[i](maps[i]) + resize(x, maps[i].shape[-2:])
            x = self.project[i](self.refine[i](x))
        return per_pixel(x, self.norm)


class _PyramidPooling(nn.Module):
    def __init__(self, in_channels: int, channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        check_positive(**{f"bins[{i}]": n for i, n in enumerate(bins)})
        self.bins = tuple(bins)
        self.grids = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for _ in self.bins)
        self.join = nn.Conv2d(in_channels + len(self.bins) * channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        pooled = [resize(F.relu(conv(_average(x, n))), size) for n, conv in zip(self.bins, self.grids)]
        return F.relu(self.join(torch.cat([x, *pooled], dim=1)))


def _average(maps: Tensor, bins: int) -> Tensor:
    """`F.adaptive_avg_pool2d(maps, bins)` as two matrix products, which export with open sizes."""

    def weights(size: int) -> Tensor:
        edges = torch.arange(bins + 1, device=maps.device) * size
        start, end = edges[:-1, None] // bins, (edges[1:, None] + bins - 1) // bins
        pixel = torch.arange(size, device=maps.device)
        return ((pixel >= start) & (pixel < end)).to(maps.dtype) / (end - start)

    return weights(maps.shape[-2]) @ maps @ weights(maps.shape[-1]).mT


class _FeatureSelection(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.importance = nn.Conv2d(in_channels, in_channels, 1)
        self.select = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        importance = self.importance(x.mean((2, 3), keepdim=True)).sigmoid()
        out: Tensor = self.select(x + x * importance)
        return out


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


def _reassembly(in_channels: int, channels: int, scale: int | None, divisor: int) -> nn.Sequential:
    """A tap to D channels, and to scale / divisor of its size (rounded up)."""
    if scale is None:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 1)]
    if scale > divisor:
        layers.append(nn.ConvTranspose2d(channels, channels, scale // divisor, stride=scale // divisor))
    elif scale < divisor:
        step = divisor // scale
        layers.append(nn.Conv2d(channels, channels, step + 1, stride=step, padding=step // 2))
    return nn.Sequential(*layers, nn.Conv2d(channels, channels, 3, padding=1, bias=False))
