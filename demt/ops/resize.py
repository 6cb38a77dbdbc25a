"""Bilinear resizing of maps, the one way it is done everywhere, and layers over the resized levels of a pyramid.

Levels are maps (B, C_i, H_i, W_i), finest first, all upsampled (bilinear) to the first. A linear layer over the
concatenation is a sum of linear layers, one a level, and upsampling commutes with each of them: a level is projected
at its own size, and the concatenated map (1440 channels at stride 4 for Swin-T) never exists. Sizes may be symbols of a
graph capture.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.ops.pointwise import are_plain, channels_first, channels_last, linear
from demt.ops.reference import convolve_levels_reference, project_levels_reference


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, h, w) to `size` (H, W), bilinear with ``align_corners=False``; as they are if they have it."""
    sides = (*maps.shape[-2:], *size)
    # Whether symbols are equal must not be asked: the answer would become a condition on the image's size.
    if not is_symbolic(*sides) and sides[:2] == sides[2:]:
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def project_levels(levels: Sequence[Tensor], layer: nn.Linear) -> Tensor:
    """A linear layer, ΣC_i to D channels, over the concatenated levels: (B, D, H_0, W_0).

    `demt.ops.reference.project_levels_reference` spells it out.
    """
    if not are_plain([layer], nn.Linear):
        return project_levels_reference(levels, layer)
    size = levels[0].shape[-2:]
    finest, *weights = _parts(layer.weight, levels)
    total = linear(channels_last(levels[0]), finest, layer.bias)
    for level, part in zip(levels[1:], weights):
        projected = linear(channels_last(level), part)
        total += channels_last(resize(channels_first(projected), size))
    return channels_first(total)


def convolve_levels(levels: Sequence[Tensor], layer: nn.Conv2d) -> Tensor:
    """A p×p convolution of stride p, ΣC_i to D channels, over the concatenated levels, zero-padded at the bottom and
    right: (B, D, ceil(H_0 / p), ceil(W_0 / p)).

    `demt.ops.reference.convolve_levels_reference` spells it out.
    """
    if not are_plain([layer], nn.Conv2d):
        return convolve_levels_reference(levels, layer)
    height, width = levels[0].shape[-2:]
    weight, bias = layer.weight, layer.bias
    total = weight.new_zeros(()) if bias is None else bias[:, None, None]
    for i, (level, part) in enumerate(zip(levels, _parts(weight, levels))):
        # Levels of the output's size or smaller are projected before upsampling: less work, and no large map.
        convolve = _upsample_then_convolve if i < 2 else _project_then_upsample
        total = total + convolve(level, part, height, width)
    return total


def _parts(weight: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """The columns of a weight for each level: slices, as exporters make no constants of what `split` gives."""
    ends = list(itertools.accumulate(level.shape[1] for level in levels))
    return [weight[:, end - level.shape[1] : end] for end, level in zip(ends, levels)]


def _upsample_then_convolve(level: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    patch = weight.shape[-1]
    full = F.pad(resize(level, (height, width)), (0, missing(width, patch), 0, missing(height, patch)))
    return F.conv2d(full, weight, stride=patch)


def _project_then_upsample(level: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """The same by associativity: at the level's own pixels all p² taps at once, then each tap at its place."""
    patch = weight.shape[-1]
    projected = torch.einsum("bchw,dcpq->bpqhwd", level, weight)
    rows = _interpolation(level.shape[-2], height, patch, level)
    columns = _interpolation(level.shape[-1], width, patch, level)
    across = torch.einsum("jqw,bpqhwd->bphjd", columns, projected)
    return torch.einsum("iph,bphjd->bdij", rows, across)


def _interpolation(source: int, target: int, patch: int, like: Tensor) -> Tensor:
    """Weights (patches, p, source) of bilinear upsampling to `target` positions, zero in the padding."""
    identity = torch.eye(source, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)[None]
    weights = F.interpolate(identity, size=target, mode="linear", align_corners=False)[0]
    return F.pad(weights, (0, missing(target, patch))).mT.unflatten(0, (-1, patch)).to(like.dtype)


def is_symbolic(*sizes: Any) -> bool:
    """Whether one of the sizes is left open in a graph that is being captured."""
    return any(isinstance(size, torch.SymInt) for size in sizes)


def ceil_div(size: int, step: int) -> int:
    """Steps that cover `size`. So written, symbols of nested sizes simplify, unlike with ``-(-size // step)``."""
    return (size + step - 1) // step


def missing(size: int, multiple: int) -> int:
    """How much `size` lacks to the next multiple."""
    return ceil_div(size, multiple) * multiple - size
