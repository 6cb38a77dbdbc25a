"""A timm model whose forward gives four feature maps, under timm's own parameter names.

A backbone is of a subclass of the timm model's class and takes over its parts. timm's methods (`forward_intermediates`,
`group_matcher`, `no_weight_decay`, `set_grad_checkpointing`, …) want a timm model as `self`. A wrapper around one would
put a prefix before every name, or hide a second module whose mode, device and replicas have to be kept in step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from demt.ops.pointwise import linear
from demt.ops.resize import ceil_div, is_symbolic, missing, resize
from demt.ops.runtime import has_onednn_linear, saved_tensors_are_hooked

_Module = TypeVar("_Module", bound=nn.Module)

STRIDES = (4, 8, 16, 32)


class FeatureBackbone:
    """Mixin over a timm model: `forward(images)` returns four maps.

    Attributes:
        channels: Channels of the four maps.
        strides: Their strides; 4, 8, 16, 32, or four times the patch size for a plain ViT.
        timm_class: The class that timm has for this architecture.
        antialias_positions: Whether position embeddings are resized with antialiasing.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    timm_class: type[nn.Module]
    antialias_positions = True
    _taps: tuple[int, ...]
    _tap_strides: tuple[int, ...]
    _has_linear: bool

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, C, H, W) to four maps (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])).

        Raises:
            ValueError: if the architecture cannot take images of this size.
        """
        with fast_linear(self._has_linear):
            levels = self._levels(images)
        if self._tap_strides == self.strides:
            return levels
        height, width = images.shape[-2:]
        nearest = [min(range(len(levels)), key=lambda i: abs(self._tap_strides[i] - s)) for s in self.strides]
        return [resize(levels[i], (ceil_div(height, s), ceil_div(width, s))) for i, s in zip(nearest, self.strides)]

    def own_form(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of timm's model, under timm's names, as those of this backbone."""
        return state

    def _levels(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        fit = fit_to_multiple if len(set(self._tap_strides)) == 1 else pad_to_multiple
        try:
            maps = self._intermediates(fit(images, max(self._tap_strides)))
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"timm's {self.timm_class.__name__} cannot take images of {height}x{width} pixels ({error}); build it "
                "for that size with backbone_kwargs={'img_size': (height, width)}, or choose another backbone"
            ) from error
        return [crop(m, ceil_div(height, s), ceil_div(width, s)) for m, s in zip(maps, self._tap_strides)]

    def _intermediates(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.forward_intermediates(  # type: ignore[attr-defined]
            images, indices=list(self._taps), norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return maps


def with_parts_of(module: nn.Module, cls: type[_Module]) -> _Module:
    """A module of class `cls`, which extends the class of `module`, with the parameters, children and settings of
    `module`. The latter is to be thrown away: the two share their parts.
    """
    taken = cls.__new__(cls)
    taken.__dict__.update(module.__dict__)
    return taken


def replace_modules(model: nn.Module, kind: type[nn.Module], cls: type[nn.Module]) -> None:
    """Put modules of class `cls`, an extension of `kind`, in the place of a model's modules of that kind."""
    for name, module in list(model.named_modules()):
        if isinstance(module, kind):
            model.set_submodule(name, with_parts_of(module, cls))


def feature_backbone(
    model: nn.Module,
    cls: type[FeatureBackbone],
    *,
    channels: tuple[int, ...],
    taps: tuple[int, ...],
    tap_strides: tuple[int, ...],
    strides: tuple[int, ...],
) -> nn.Module:
    """The feature backbone with the parts of a timm model, which is not to be used any more.

    Args:
        cls: Extends the model's class.
        channels, strides: Of the four maps.
        taps, tap_strides: Indices of the maps to take from timm's `forward_intermediates`, and their strides.
    """
    backbone: Any = with_parts_of(model, cls)  # type: ignore[type-var]
    backbone.channels, backbone.strides, backbone.timm_class = channels, strides, type(model)
    backbone._taps, backbone._tap_strides = taps, tap_strides
    backbone._has_linear = any(isinstance(module, nn.Linear) for module in model.modules())
    return backbone


def pad_to_multiple(maps: Tensor, multiple: int) -> Tensor:
    """Zero-pad maps (..., H, W) at the bottom and right so that both sides are multiples of `multiple`."""
    height, width = maps.shape[-2:]
    bottom, right = missing(height, multiple), missing(width, multiple)
    if not is_symbolic(bottom, right) and bottom == right == 0:
        return maps
    return F.pad(maps, (0, right, 0, bottom))


def fit_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W), enlarged a little so that both sides are multiples of `multiple`.

    Patches then cover the image and nothing else, so that maps of patches are in line with it whatever its size.
    """
    height, width = (ceil_div(side, multiple) * multiple for side in images.shape[-2:])
    return resize(images, (height, width))


def crop(maps: Tensor, height: int, width: int) -> Tensor:
    """The upper left part of maps (..., H, W). Slices with symbols would be clamped to the map's size."""
    return maps.narrow(-2, 0, height).narrow(-1, 0, width)


def replace_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a parameter's value, also to another shape, keeping dtype and device."""
    old = getattr(module, name)
    with torch.no_grad():
        setattr(module, name, nn.Parameter(value.to(old)))


class FastLinear(TorchFunctionMode):
    """A context in which `torch.nn.functional.linear`, and so every `torch.nn.Linear`, is `demt.ops.linear`.

    It holds for the current thread. Layers keep their class, so that tools which look up the exact class (quantisation,
    counters of operations) find them. Nothing is raised that torch's own function would not raise.

    Example:
        >>> layer, x = torch.nn.Linear(4, 2), torch.ones(3, 4)
        >>> with FastLinear():
        ...     y = layer(x)
        >>> torch.allclose(y, layer(x))
        True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Checkpointing computes again outside this context, and wants the same tensors to be kept as the first time.
        if func is F.linear and not saved_tensors_are_hooked():
            func = _named_linear
        return func(*args, **(kwargs or {}))


def _named_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return linear(input, weight, bias)


def fast_linear(wanted: bool = True) -> contextlib.AbstractContextManager[object]:
    """`FastLinear()` where `demt.ops.linear` differs from torch's function; elsewhere, in graphs that are compiled,
    exported or traced, and if not `wanted`, a context that does nothing.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return FastLinear() if wanted and not recorded and has_onednn_linear() else contextlib.nullcontext()
