"""Logits at half the image's size: thin lines that the decoder's stride of 4 cannot hold. In no paper of the three."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers.necks import conv_twice
from demt.ops.checks import check_maps, check_positive
from demt.ops.resize import resize


class DetailStem(nn.Module):
    """Two Conv3×3 (no bias), BN, ReLU, the first of stride 2: details of the image, which all tasks share.

    Args:
        in_channels: Channels of the image.
        channels: Channels C of the details.

    Shape:
        Images (B, in_channels, H, W), to (B, C, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: for numbers of channels below 1, or an input whose shape or dtype does not fit.

    Example:
        >>> import torch
        >>> DetailStem(3, 8)(torch.randn(2, 3, 10, 15)).shape
        torch.Size([2, 8, 5, 8])
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, channels=channels)
        self.in_channels = in_channels
        self.layers = conv_twice(in_channels, channels, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        check_maps("images", images, self.in_channels, (4,))
        details: Tensor = self.layers(images)
        return details


class DetailPyramid(nn.Module):
    """Details of the image from a network of their own, for a task whose lines a `DetailStem` is too small to find.

    Args:
        stages: Maps images (B, in, H, W) to maps (B, C_i, ceil(H / 2^(i+1)), ceil(W / 2^(i+1))), finest first: the
            first stages of a backbone.
        in_channels: Channels C_i of these maps.
        channels: Channels C of the details.

    From the coarsest map up: M_i = ReLU(BN(Conv3×3(Conv1×1(C_i) + up(M_{i+1})))), upsampling bilinear; M_0 are the
    details.

    Shape:
        Images (B, in, H, W), to (B, C, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: for numbers of channels below 1, or maps whose number, shapes or dtypes do not fit.

    Example:
        >>> import torch
        >>> stages = torch.nn.Conv2d(3, 4, 2, stride=2)
        >>> DetailPyramid(lambda images: [stages(images)], [4], 8)(torch.randn(2, 3, 10, 16)).shape
        torch.Size([2, 8, 5, 8])
    """

    def __init__(self, stages: Callable[[Tensor], Sequence[Tensor]], in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        check_positive(channels=channels, **{f"in_channels[{i}]": c for i, c in enumerate(in_channels)})
        self.in_channels, self.stages = tuple(in_channels), stages
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.merge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            for _ in in_channels
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(images)
        if len(maps) != len(self.in_channels):
            raise ValueError(f"Expected {len(self.in_channels)} maps of `stages`, got {len(maps)}")
        for i, (each, channels) in enumerate(zip(maps, self.in_channels)):
            check_maps(f"map {i} of `stages`", each, channels, (4,))
        merged: Tensor = self.merge[-1](self.laterals[-1](maps[-1]))
        for i in reversed(range(len(maps) - 1)):
            lateral = self.laterals[i](maps[i])
            merged = self.merge[i](lateral + resize(merged, lateral.shape[-2:]))
        return merged


class DetailRefinement(nn.Module):
    """Adds to a task's logits, at twice their size, what its map and the image's details say together.

    logits ← up(logits) + Conv1×1(ReLU(BN(Conv3×3([up(Conv1×1(x)), details])))), all upsampling bilinear. The last
    convolution is initially 0, so that a trained model keeps its logits when it is given a refinement.

    Args:
        channels: Channels D of the task's map.
        out_channels: The task's channels.
        detail_channels: Channels C of the details (see `DetailStem`), and of the hidden layers.

    Shape:
        logits (B, out_channels, h, w), x (B, D, h, w) and details (B, C, H, W), to (B, out_channels, H, W).

    Raises:
        ValueError: for numbers of channels below 1, or an input whose shape or dtype does not fit.

    Example:
        >>> import torch
        >>> refine = DetailRefinement(16, 3, 8)
        >>> refine(torch.randn(2, 3, 5, 6), torch.randn(2, 16, 5, 6), torch.randn(2, 8, 10, 12)).shape
        torch.Size([2, 3, 10, 12])
    """

    def __init__(self, channels: int, out_channels: int, detail_channels: int) -> None:
        super().__init__()
        check_positive(channels=channels, out_channels=out_channels, detail_channels=detail_channels)
        self.channels, self.out_channels, self.detail_channels = channels, out_channels, detail_channels
        self.proj = nn.Conv2d(channels, detail_channels, 1)
        self.conv = nn.Conv2d(2 * detail_channels, detail_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(detail_channels)
        self.logits = nn.Conv2d(detail_channels, out_channels, 1)
        nn.init.zeros_(self.logits.weight)
        assert self.logits.bias is not None
        nn.init.zeros_(self.logits.bias)

    def forward(self, logits: Tensor, x: Tensor, details: Tensor) -> Tensor:
        check_maps("logits", logits, self.out_channels, (4,))
        check_maps("x", x, self.channels, (4,))
        check_maps("details", details, self.detail_channels, (4,))
        size = details.shape[-2:]
        hidden = torch.cat([resize(self.proj(x), size), details], dim=1)
        added: Tensor = self.logits(F.relu(self.norm(self.conv(hidden))))
        return resize(logits, size) + added
