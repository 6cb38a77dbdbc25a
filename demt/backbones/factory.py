"""From a timm name to a backbone with four maps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from difflib import get_close_matches
from os import PathLike
from typing import Any

import timm
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from demt.backbones.adapter import STRIDES, FeatureBackbone, feature_backbone, replace_modules
from demt.backbones.hrnet import create_hrnet
from demt.backbones.swin import create_swin
from demt.backbones.vit import create_vit
from demt.backbones.weights import check_source, load_backbone

_logger = logging.getLogger(__name__)

#: Of modules of timm whose models need more than `_create_generic` does.
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "swin_transformer": create_swin,
    "hrnet": create_hrnet,
    "vision_transformer": create_vit,
}


def create_backbone(
    name: str, *, pretrained: bool | str | PathLike[str] = False, in_chans: int = 3, **kwargs: Any
) -> nn.Module:
    """Build a feature backbone from timm.

    Args:
        name: Any timm model name, with or without tag (``"swin_tiny_patch4_window7_224.ms_in22k"``).
        pretrained: Load timm's weights; or those of a file, see `demt.backbones.load_backbone`.
        in_chans: Channels of the images; pretrained weights of the first convolution are adapted by timm.
        kwargs: Passed to timm (``drop_path_rate``, ``img_size``…).

    Returns:
        The timm model, its `forward(images)` giving four maps, with attributes `channels` and `strides`:
        (4, 8, 16, 32), or four times the patch size for a plain ViT.

    Raises:
        ValueError: if timm knows no such model, it offers no feature maps, or the file does not fit.
        OSError: if its weights cannot be loaded.
    """
    check_source(pretrained)
    if not isinstance(name, str) or not timm.is_model(name):
        close = get_close_matches(str(name).split(".")[0], timm.list_models(), n=3)
        hint = f"; did you mean one of {close}?" if close else "; timm.list_models() lists them"
        raise ValueError(f"Expected `backbone` to be a timm model name, got {name!r}{hint}")
    build = _BUILDERS.get(_module(name), _create_generic)
    try:
        model = build(name, pretrained=pretrained is True, in_chans=in_chans, **kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        raise ValueError(f"timm's {name!r} does not take all of `backbone_kwargs` {kwargs}: {error}") from error
    except OSError as error:
        if pretrained is not True:
            raise
        raise OSError(
            f"The weights of the backbone {name!r} cannot be loaded; `pretrained_backbone=False` starts without, a "
            f"file's path with those in it. The reason: {error}"
        ) from error
    if not isinstance(pretrained, bool):
        load_backbone(model, pretrained)
    return model


def create_stages(name: str, count: int, *, in_chans: int = 3, **kwargs: Any) -> nn.Module:
    """The first stages of a backbone, with random weights: `forward(images)` gives `count` maps, of stride 2, 4, …

    Args:
        name, in_chans, kwargs: As for `create_backbone`.
        count: Number of maps.

    Raises:
        ValueError: if the architecture has no maps of these strides.
    """
    if _module(name) in _BUILDERS:
        raise ValueError(f"Expected `refine_stages` for a backbone with maps from stride 2 on; {name!r} has none")
    model, infos, reductions = _create_timm(name, pretrained=False, in_chans=in_chans, **kwargs)
    deepest = {stride: index for index, stride in enumerate(reductions)}
    strides = tuple(2 << index for index in range(count))
    if not set(strides) <= set(deepest):
        raise ValueError(
            f"Expected `refine_stages` for a backbone with maps at strides {strides}; {name!r} has {sorted(deepest)}"
        )
    taps = tuple(deepest[stride] for stride in strides)
    channels = tuple(infos[tap]["num_chs"] for tap in taps)
    return _taken(model, channels=channels, taps=taps, tap_strides=strides, strides=strides)


def _module(name: str) -> str:
    """The module of timm that has this model."""
    return timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]


def _create_timm(name: str, **options: Any) -> tuple[Any, Any, list[int]]:
    """A timm model, its `feature_info`, and the strides in it."""
    options["num_classes"] = 0
    try:
        model = timm.create_model(name, dynamic_img_size=True, **options)
    except TypeError:
        model = timm.create_model(name, **options)
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"Backbone {name!r} offers no feature maps (timm's `forward_intermediates`); choose another")
    return model, model.feature_info, [info["reduction"] for info in model.feature_info]


def _create_generic(name: str, *, pretrained: bool, in_chans: int, **kwargs: Any) -> nn.Module:
    model, infos, reductions = _create_timm(name, pretrained=pretrained, in_chans=in_chans, **kwargs)
    strides: tuple[int, ...] = STRIDES
    tap_strides: tuple[int, ...]
    if len(set(reductions)) == 1:
        taps = tuple(len(infos) * (i + 1) // 4 - 1 for i in range(4))
        strides = tap_strides = (reductions[0],) * 4
        channels = tuple(infos[tap]["num_chs"] for tap in taps)
    else:
        # The deepest map of each stride, as feature pyramids take it, and the nearest where a stride is missing.
        deepest = {stride: index for index, stride in enumerate(reductions)}
        nearest = [deepest[min(deepest, key=lambda have: abs(have - want))] for want in STRIDES]
        taps = tuple(sorted(set(nearest)))
        tap_strides = tuple(reductions[tap] for tap in taps)
        channels = tuple(infos[tap]["num_chs"] for tap in nearest)
    if tap_strides != strides:
        _logger.info("Backbone %s has maps at strides %s; resized to %s", name, tap_strides, strides)
    return _taken(model, channels=channels, taps=taps, tap_strides=tap_strides, strides=strides)


def _taken(model: Any, *, taps: tuple[int, ...], **settings: Any) -> nn.Module:
    """The feature backbone of a timm model's maps `taps`, without the layers behind them."""
    model.prune_intermediate_layers(list(taps), prune_norm=True, prune_head=True)
    # Images are padded to multiples of the deepest map's stride, so the maps before it have sides to match.
    replace_modules(model, Conv2dSame, FixedSameConv2d)
    return feature_backbone(model, _extended(type(model)), taps=taps, **settings)


class _AnyBackbone(FeatureBackbone):
    """Of a class of timm's that has no subclass in this package: `_extended` makes one when it is first needed. Other
    processes do not know it by name, so a backbone pickles by timm's class.
    """

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _empty, (self.timm_class,), self.__dict__.copy()


_extensions: dict[type, type[FeatureBackbone]] = {}


def _extended(base: type) -> type[FeatureBackbone]:
    if base not in _extensions:
        _extensions[base] = type(f"{base.__name__}Backbone", (_AnyBackbone, base), {})
    return _extensions[base]


def _empty(base: type) -> Any:
    cls: Any = _extended(base)
    return cls.__new__(cls)


class FixedSameConv2d(Conv2dSame):
    """timm's `Conv2dSame` for sides that are multiples of the stride, as those of padded images are.

    There TensorFlow's padding ("same") is (k - 1)·d + 1 - s in all, the smaller half at the top and left. timm computes
    it from the size, and a graph that is captured with open sizes drowns in the conditions.
    """

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for kernel, dilation, stride in reversed(list(zip(self.kernel_size, self.dilation, self.stride))):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
