"""HRNet as the released models run it: the four raw branches, bilinear fusion, any image size."""

from __future__ import annotations

from typing import Any

import timm
from timm.models.hrnet import HighResolutionModule, HighResolutionNetFeatures
from torch import Tensor, nn

from demt.backbones.adapter import STRIDES, FeatureBackbone, feature_backbone, replace_modules
from demt.ops.resize import resize


class BilinearFusionModule(HighResolutionModule):
    """Fuses branches by bilinear upsampling (timm: nearest), then resizing to the target's size where it is odd."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        maps = [branch(level) for branch, level in zip(self.branches, x)]
        fused = []
        for i, layers in enumerate(self.fuse_layers):
            total = maps[0] if i == 0 else layers[0](maps[0])
            for j in range(1, self.num_branches):
                part = layers[j](maps[j])
                total = total + (resize(part, maps[i].shape[-2:]) if j > i else part)
            fused.append(self.fuse_act(total))
        return fused


class HRNetBackbone(FeatureBackbone, HighResolutionNetFeatures):
    """Levels are the outputs of the last fusion."""

    def _levels(self, images: Tensor) -> list[Tensor]:
        model: Any = self
        x = model.act1(model.bn1(model.conv1(images)))
        x = model.act2(model.bn2(model.conv2(x)))
        return list(model.stages(x))


def create_hrnet(name: str, *, pretrained: bool, in_chans: int, **kwargs: Any) -> nn.Module:
    """Build timm's HRNet `name` without its classification modules. `kwargs` go to timm."""
    model = timm.create_model(
        name,
        pretrained=pretrained,
        in_chans=in_chans,
        features_only=True,
        feature_location="",
        out_indices=(1, 2, 3, 4),
        **kwargs,
    )
    replace_modules(model, HighResolutionModule, BilinearFusionModule)
    for module in model.modules():
        if isinstance(module, HighResolutionModule):
            _make_bilinear(module)
    channels = tuple(model.feature_info.channels())
    return feature_backbone(
        model, HRNetBackbone, channels=channels, taps=(1, 2, 3, 4), tap_strides=STRIDES, strides=STRIDES
    )


def _make_bilinear(module: HighResolutionModule) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Upsample):
            layer.mode, layer.align_corners = "bilinear", False
