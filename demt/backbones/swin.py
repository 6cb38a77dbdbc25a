"""Swin as the released models run it: padding before the cyclic shift, fixed windows, a norm on each level."""

from __future__ import annotations

from typing import Any

import timm
import torch
from einops import rearrange
from timm.models.swin_transformer import (
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from demt.backbones.adapter import STRIDES, FeatureBackbone, crop, feature_backbone, pad_to_multiple, replace_modules


class PadFirstBlock(SwinTransformerBlock):
    """A Swin block that pads to whole windows, then shifts (timm shifts, then pads: other numbers on odd sizes)."""

    def _attn(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        rows, columns = self.window_size
        x = pad_to_multiple(x.permute(0, 3, 1, 2), rows).permute(0, 2, 3, 1)
        shift = tuple(self.shift_size)
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
        windows = window_partition(x, self.window_size).view(-1, rows * columns, channels)
        windows = self.attn(windows, mask=self.get_attn_mask(x))
        x = window_reverse(windows.view(-1, rows, columns, channels), self.window_size, x.shape[1], x.shape[2])
        if any(shift):
            x = torch.roll(x, shift, dims=(1, 2))
        return crop(x.permute(0, 3, 1, 2), height, width).permute(0, 2, 3, 1).contiguous()

    def get_attn_mask(self, x: Tensor) -> Tensor | None:
        """As timm's, from comparisons instead of slices: their ends would be conditions on open sizes."""
        if not any(self.shift_size):
            return None
        regions = []
        for size, window, shift in zip(x.shape[1:3], self.window_size, self.shift_size):
            position = torch.arange(size, device=x.device)
            regions.append((position >= size - window).int() + (position >= size - shift).int())
        numbers = (3 * regions[0][:, None] + regions[1])[None, :, :, None]
        windows = window_partition(numbers, self.window_size).view(-1, self.window_area)
        return torch.where(windows[:, None] == windows[:, :, None], 0.0, -100.0).to(x.dtype)


class PlainMerging(PatchMerging):
    """timm's patch merging, padded so that open sizes stay simple."""

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x.permute(0, 3, 1, 2), 2)
        quarters = rearrange(x, "b c (h p) (w q) -> b h w (q p c)", p=2, q=2)
        out: Tensor = self.reduction(self.norm(quarters))
        return out


class SwinBackbone(FeatureBackbone, SwinTransformer):
    """Levels after `norm0` … `norm3` (LayerNorm), the output norms of dense prediction with Swin."""

    def _levels(self, images: Tensor) -> list[Tensor]:
        maps = [m.permute(0, 2, 3, 1) for m in self._intermediates(pad_to_multiple(images, 4))]
        return [getattr(self, f"norm{i}")(m).permute(0, 3, 1, 2) for i, m in enumerate(maps)]


def create_swin(name: str, *, pretrained: bool, in_chans: int, **kwargs: Any) -> nn.Module:
    """Build timm's Swin `name` with the corrections above. `kwargs` go to timm (`drop_path_rate`, `window_size`…)."""
    model = timm.create_model(
        name,
        pretrained=pretrained,
        in_chans=in_chans,
        num_classes=0,
        global_pool="",
        # The last stage of a model built at 224 pixels would lose its shift, and windows would shrink with the map.
        **{"dynamic_img_size": True, "always_partition": True, "drop_path_rate": 0.1, **kwargs},
    )
    model.norm = nn.Identity()
    channels = tuple(info["num_chs"] for info in model.feature_info)
    for level, width in enumerate(channels):
        model.add_module(f"norm{level}", nn.LayerNorm(width))
    replace_modules(model, SwinTransformerBlock, PadFirstBlock)
    replace_modules(model, PatchMerging, PlainMerging)
    return feature_backbone(
        model, SwinBackbone, channels=channels, taps=(0, 1, 2, 3), tap_strides=STRIDES, strides=STRIDES
    )
