"""A timm model whose forward gives four feature maps, under timm's own parameter names.

The model stays the timm object it was (its `group_matcher`, `no_weight_decay`, `set_grad_checkpointing` and weights
work as always); only its class is replaced by a subclass with another `forward`. So parameters are called
`backbone.<timm's name>` with no wrapper in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.ops.resize import ceil_div, is_symbolic, missing, resize

STRIDES = (4, 8, 16, 32)


class FeatureBackbone:
    """Mixin over a timm model: `forward(images)` returns four maps.

    Attributes:
        channels: Channels of the four maps.
        strides: Their strides; 4, 8, 16, 32, or four times the patch size for a plain ViT.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    _taps: tuple[int, ...]
    _tap_strides: tuple[int, ...]
    _parents: tuple[type, type]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, C, H, W) to four maps (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""
        levels = self._levels(images)
        if self._tap_strides == self.strides:
            return levels
        height, width = images.shape[-2:]
        nearest = [min(range(len(levels)), key=lambda i: abs(self._tap_strides[i] - s)) for s in self.strides]
        return [resize(levels[i], (ceil_div(height, s), ceil_div(width, s))) for i, s in zip(nearest, self.strides)]

    def _levels(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        deepest = max(self._tap_strides)
        padded = pad_to_multiple(images, deepest)
        try:
            maps = self._intermediates(padded)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"timm's {self._parents[1].__name__} cannot take images of {height}x{width} pixels ({error}); build it "
                "for that size with backbone_kwargs={'img_size': (height, width)}, or choose another backbone"
            ) from error
        return [crop(m, ceil_div(height, s), ceil_div(width, s)) for m, s in zip(maps, self._tap_strides)]

    def _intermediates(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.forward_intermediates(  # type: ignore[attr-defined]
            images, indices=list(self._taps), norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The subclass is made at run time: pickle by its two parents instead of by name.
        return _rebuild, self._parents, self.__dict__.copy()


_subclasses: dict[tuple[type, type], type] = {}


def _subclass(adapter: type, base: type) -> type:
    parents = (adapter, base)
    if parents not in _subclasses:
        _subclasses[parents] = type(f"{base.__name__}Backbone", parents, {"_parents": parents})
    return _subclasses[parents]


def _rebuild(adapter: type, base: type) -> Any:
    cls: Any = _subclass(adapter, base)
    return cls.__new__(cls)


def adopt(
    model: nn.Module,
    adapter: type[FeatureBackbone],
    *,
    channels: tuple[int, ...],
    taps: tuple[int, ...],
    tap_strides: tuple[int, ...],
    strides: tuple[int, ...],
) -> nn.Module:
    """Turn a timm model into a feature backbone in place and return it."""
    model.__class__ = _subclass(adapter, type(model))
    backbone: Any = model
    backbone.channels, backbone.strides = channels, strides
    backbone._taps, backbone._tap_strides = taps, tap_strides
    return model


def pad_to_multiple(maps: Tensor, multiple: int) -> Tensor:
    """Zero-pad maps (..., H, W) at the bottom and right so that both sides are multiples of `multiple`."""
    height, width = maps.shape[-2:]
    bottom, right = missing(height, multiple), missing(width, multiple)
    if not is_symbolic(bottom, right) and bottom == right == 0:
        return maps
    return F.pad(maps, (0, right, 0, bottom))


def crop(maps: Tensor, height: int, width: int) -> Tensor:
    """The upper left part of maps (..., H, W). Slices with symbols would be clamped to the map's size."""
    return maps.narrow(-2, 0, height).narrow(-1, 0, width)


def replace_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a parameter's value, also to another shape, keeping dtype and device."""
    old = getattr(module, name)
    with torch.no_grad():
        setattr(module, name, nn.Parameter(value.to(old)))
