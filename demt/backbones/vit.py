"""Plain vision transformers through four taps, and the released models' ViT."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from demt.backbones.adapter import (
    FeatureBackbone,
    feature_backbone,
    fit_to_multiple,
    pad_to_multiple,
    replace_parameter,
)
from demt.ops.resize import is_symbolic


class ViTBackbone(FeatureBackbone, VisionTransformer):
    """Raw outputs of four blocks, evenly spread, as maps at the patch stride; images are enlarged to whole patches."""

    def _levels(self, images: Tensor) -> list[Tensor]:
        return self._intermediates(fit_to_multiple(images, self.strides[0]))


class ReleasedViTBackbone(ViTBackbone):
    """As `ViTBackbone`, with images padded at the end, and position embeddings resized bicubically without antialiasing
    (timm antialiases).
    """

    antialias_positions = False

    def _levels(self, images: Tensor) -> list[Tensor]:
        return self._intermediates(pad_to_multiple(images, self.strides[0]))

    def own_form(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The patch embedding's bias goes into the position embeddings: see `_fold_patch_bias`."""
        state = dict(state)
        bias, positions = state.pop("patch_embed.proj.bias", None), state.get("pos_embed")
        if bias is not None and positions is not None and positions.shape[-1:] == bias.shape:
            state["pos_embed"] = torch.cat([positions[:, :1], positions[:, 1:] + bias], dim=1)
        return state

    def _pos_embed(self, x: Tensor) -> Tensor:
        model: Any = self
        batch, height, width, channels = x.shape
        prefix, grid = model.pos_embed[:, :1], model.pos_embed[:, 1:]
        rows, columns = model.patch_embed.grid_size
        if is_symbolic(height, width) or (height, width) != (rows, columns):
            grid = grid.reshape(1, rows, columns, channels).permute(0, 3, 1, 2)
            grid = F.interpolate(grid.float(), size=(height, width), mode="bicubic", align_corners=False).to(grid)
            grid = grid.flatten(2).transpose(1, 2)
        tokens = x.reshape(batch, -1, channels) + grid
        first = (model.cls_token + prefix).expand(batch, -1, -1)
        out: Tensor = model.pos_drop(torch.cat([first, tokens], dim=1))
        return out


def create_vit(name: str, *, pretrained: bool, in_chans: int, released: bool = False, **kwargs: Any) -> nn.Module:
    """Build timm's plain ViT `name` with four taps.

    Args:
        released: As the released models run it: LayerNorm eps 1e-5, no bias in the patch embedding, no antialiasing
            in resizing position embeddings, positions for 512 × 512 pixels.
        kwargs: Passed to timm.
    """
    if released:
        kwargs = {"img_size": 512, "norm_layer": partial(nn.LayerNorm, eps=1e-5), **kwargs}
    model = timm.create_model(
        name,
        pretrained=pretrained,
        in_chans=in_chans,
        num_classes=0,
        **{"dynamic_img_size": True, "global_pool": "", **kwargs},
    )
    if released:
        _fold_patch_bias(model)
    depth = len(model.blocks)
    taps = tuple(depth * (i + 1) // 4 - 1 for i in range(4))
    model.prune_intermediate_layers(list(taps), prune_norm=True, prune_head=True)
    stride = int(model.patch_embed.patch_size[0])
    return feature_backbone(
        model,
        ReleasedViTBackbone if released else ViTBackbone,
        channels=(model.embed_dim,) * 4,
        taps=taps,
        tap_strides=(stride,) * 4,
        strides=(stride,) * 4,
    )


def _fold_patch_bias(model: nn.Module) -> None:
    """Move the patch embedding's bias into the position embeddings: the same function without the parameter."""
    projection: Any = model.patch_embed.proj  # type: ignore[union-attr]
    positions = model.pos_embed.detach().clone()  # type: ignore[union-attr, operator]
    positions[:, 1:] += projection.bias.detach()
    replace_parameter(model, "pos_embed", positions)
    projection.bias = None
