"""The network: a backbone and a head, with the methods timm users expect."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from demt.backbones import create_backbone
from demt.config import ModelConfig, PretrainedCfg
from demt.hub.pretrained import PretrainedModel
from demt.models.demt import BaselineHead, DeMTHead, MultiTaskHead
from demt.models.limits import limited_modules
from demt.models.summary import as_html, as_text
from demt.ops.checkpoint import keep_statistics_in_backward
from demt.tasks import Task


class MultiTaskModel(PretrainedModel):
    """A multi-task dense prediction network.

    Args:
        config: What to build; `demt.create_model` makes it from a name.
        pretrained_cfg: How images are prepared.
        pretrained_backbone: Load timm's weights into the backbone, or those of a file.
        cache_dir: Where timm keeps its own.

    Attributes:
        backbone: A timm model; `backbone(images)` gives four maps.
        head: Neck, decoder and task heads; `head(maps, size)` gives logits.
        config: The configuration.
        pretrained_cfg: Preprocessing of images.
    """

    backbone: Any
    head: MultiTaskHead

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> dict[str, Tensor]: ...

    def __init__(
        self,
        config: ModelConfig,
        *,
        pretrained_cfg: PretrainedCfg | None = None,
        pretrained_backbone: bool | str | PathLike[str] = False,
        cache_dir: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(config, pretrained_cfg or PretrainedCfg())
        kwargs = {**config.backbone_kwargs, **({} if cache_dir is None else {"cache_dir": cache_dir})}
        head = DeMTHead if config.has_decoder else BaselineHead
        with limited_modules():
            backbone: Any = create_backbone(
                config.backbone, pretrained=pretrained_backbone, in_chans=config.in_chans, **kwargs
            )
            self.backbone = backbone
            self.head = head(backbone.channels, backbone.strides, config)
        self.head.copy_stages(backbone, self.head.encoders)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks, in the order of the outputs."""
        return self.head.tasks

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every task.

        Args:
            images: (B, in_chans, H, W), floating, normalised with `pretrained_cfg.mean` and `.std`. Any size.

        Returns:
            Per task, in task order, logits (B, channels, H, W); `model.tasks[name].predict` makes predictions of them.

        Raises:
            ValueError: if shape or dtype does not fit.

        `torch.jit.trace` fixes the size: what it records refuses images of another (`demt.export.export` does not).
        """
        self._check_images(images)
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            images = fixed_size(images)
        return self.head(self._levels(images), tuple(images.shape[-2:]), images)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        """A table of tasks and parameters; ``print(model.backbone)`` and ``print(model.head)`` list the layers."""
        # A model that is half built, in the message of an error, has none of it.
        return as_text(self) if "head" in self._modules else super().__repr__()

    def _repr_html_(self) -> str:
        return as_html(self)

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        """Task maps (B, D, h, w) before the task heads."""
        self._check_images(images)
        return self.head.forward_features(self._levels(images))

    def forward_head(
        self, features: Mapping[str, Tensor], size: tuple[int, int] | None = None, images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits per task at `size`, from `forward_features`; a model with `refine_width` needs the `images` too."""
        return self.head.forward_head(features, size, images)

    def reset_heads(self, tasks: Mapping[str, Any]) -> None:
        """Set other tasks (see `demt.tasks.resolve_tasks`); what belongs to a task that stays keeps its weights."""
        had = set(self.head.encoders)
        self.head.reset_tasks(tasks)
        self.head.copy_stages(self.backbone, set(self.head.encoders) - had)
        self.config = self.config.replace(tasks=self.tasks)
        self.head.config = self.config

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations of backbone and head in the backward pass instead of storing them.

        HRNet backbones do not offer it in timm; there only the head does so.
        """
        self.head.grad_checkpointing = enable
        with contextlib.suppress(AssertionError):
            self.backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups for layer-wise learning rates: the backbone's, everything else last."""
        groups: dict[str, Any] = self.backbone.group_matcher(coarse=coarse)
        return {name: _prefixed(patterns) for name, patterns in groups.items()}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that optimisers should not decay."""
        names: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in names}

    def _levels(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.backbone(images)
        if self.head.grad_checkpointing and self.training and torch.is_grad_enabled():
            keep_statistics_in_backward(self.backbone, levels)
        return levels

    def _check_images(self, images: Tensor) -> None:
        chans = self.config.in_chans
        if not isinstance(images, Tensor):
            raise ValueError(
                f"Expected `images` to be a tensor, got {type(images).__name__}; see demt.predict for files"
            )
        if images.ndim != 4 or images.shape[1] != chans:
            raise ValueError(f"Expected `images` of shape (B, {chans}, H, W), got {tuple(images.shape)}")
        if not torch.is_floating_point(images):
            raise ValueError(
                f"Expected `images` of a floating dtype, normalised, got {images.dtype}; see demt.preprocess"
            )
        if 0 in images.shape:
            raise ValueError(f"Expected `images` with at least one image and one pixel, got {tuple(images.shape)}")
        dtype = next(self.head.neck.parameters()).dtype
        if images.dtype != dtype and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(
                f"Expected `images` of the model's dtype {dtype}, got {images.dtype}; convert one of the two"
            )
        deepest = max(self.backbone.strides)
        values = images.shape[0] * -(-images.shape[2] // deepest) * -(-images.shape[3] // deepest)
        if self.training and values < 2:
            raise ValueError(
                f"Batch normalisation in training mode needs more than one value per channel: expected `images` larger "
                f"than {deepest} pixels or a batch of several, got {tuple(images.shape)}; or call model.eval()"
            )


def fixed_size(images: Tensor) -> Tensor:
    """The images, by way of operators that fail for another batch, height or width when a trace runs them again."""
    for dim, side in enumerate(images.shape):
        images = images.unflatten(dim, (int(side), 1)).flatten(dim, dim + 1)
    return images


def _prefixed(patterns: Any) -> Any:
    """timm's group patterns for parameter names with `backbone.` in front."""
    if isinstance(patterns, str):
        # timm matches from the start of a name, so the anchors of the alternatives can go.
        return r"^backbone\.(?:" + re.sub(r"(^|\|)\^", r"\1", patterns) + ")"
    if isinstance(patterns, (list, tuple)):
        return [(_prefixed(pattern), order) for pattern, order in patterns]
    return patterns
