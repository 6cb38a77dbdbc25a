"""Neck and task heads: the multi-task baseline, and what every decoder begins and ends with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from demt.config import ModelConfig
from demt.layers import NECKS, DetailRefinement, DetailStem, DPTNeck, TapNeck, TaskHead
from demt.ops import resize
from demt.ops.checkpoint import recomputed
from demt.tasks import Task, resolve_tasks

_Module = TypeVar("_Module", bound=nn.Module)


class MultiTaskHead(nn.Module):
    """Backbone levels to logits: a neck, something between that a subclass adds, and one head per task.

    With `refine_width`, details of the image refine the logits of every head at half the image's size.

    Args:
        in_channels, strides: Channels and strides of the backbone's levels.
        config: The model's configuration.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        self._hidden = config.head_width or max(sum(in_channels) // 8, 1)
        self.neck = _neck(in_channels, strides, config)
        self.heads = nn.ModuleDict()
        if config.refine_width:
            self.details = DetailStem(config.in_chans, config.refine_width)
            self.refinements = nn.ModuleDict()
        self.tasks: dict[str, Task] = {}

    def forward(
        self, levels: Sequence[Tensor], size: tuple[int, int] | None = None, images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Backbone levels, finest first, to logits (B, channels, *size) per task, at the head's own size by default.

        `images` are needed with `refine_width` only; see `forward_head`.
        """
        return self.forward_head(self.forward_features(levels), size, images)

    def forward_features(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Task maps (B, D, h, w), the inputs of the task heads."""
        raise NotImplementedError

    def forward_head(
        self, features: Mapping[str, Tensor], size: tuple[int, int] | None = None, images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits (B, channels, *size) per task, from `forward_features`.

        Raises:
            ValueError: if the model has a `refine_width` and `images`, which the features were made from, are missing.
        """
        if not self.config.refine_width:
            return {name: self.run(self.heads[name], features[name], size) for name in self.tasks}
        if images is None:
            raise ValueError("Expected `images`, which the features were made from: this model refines its logits")
        details = self.run(self.details, images)
        return {name: self.run(self._refined, name, features[name], details, size) for name in self.tasks}

    def _refined(self, task: str, x: Tensor, details: Tensor, size: tuple[int, int] | None) -> Tensor:
        logits: Tensor = self.refinements[task](self.heads[task](x), x, details)
        return logits if size is None else resize(logits, size)

    def run(self, module: Callable[..., Any], *args: Any) -> Any:
        """`module(*args)`; with gradient checkpointing, computed again in the backward pass."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return recomputed(self, module, *args)
        return module(*args)

    def task_modules(self) -> dict[str, Callable[[], nn.Module]]:
        """What a subclass has for each task, beside its head: names of `nn.ModuleDict`s, and how an entry is built."""
        return {}

    def reset_tasks(self, tasks: Mapping[str, Any]) -> None:
        """Set the tasks. Modules of a task that stays are kept, but for its logits where its channels change."""
        resolved = resolve_tasks(tasks)
        # Built again in task order, so that state dicts list tasks in that order too.
        for modules, build in self.task_modules().items():
            old = getattr(self, modules)
            kept = {name: old[name] if name in old else self._like_neck(build()) for name in resolved}
            setattr(self, modules, nn.ModuleDict(kept))
        self.heads = nn.ModuleDict({name: self._head(task) for name, task in resolved.items()})
        if self.config.refine_width:
            self.refinements = nn.ModuleDict({name: self._refinement(task) for name, task in resolved.items()})
        self.tasks = resolved
        # New modules come in training mode: give them the head's own.
        self.train(self.training)

    def _head(self, task: Task) -> nn.Module:
        old = self.heads[task.name] if task.name in self.tasks else None
        if old is not None and self.tasks[task.name].channels == task.channels:
            return old
        head = TaskHead(self.config.width, task.channels, hidden_channels=self._hidden)
        if isinstance(old, TaskHead):
            head.conv, head.norm = old.conv, old.norm
        return self._like_neck(head)

    def _refinement(self, task: Task) -> nn.Module:
        assert self.config.refine_width is not None
        old = self.refinements[task.name] if task.name in self.tasks else None
        if old is not None and self.tasks[task.name].channels == task.channels:
            return old
        made = DetailRefinement(self.config.width, task.channels, self.config.refine_width)
        if isinstance(old, DetailRefinement):
            made.proj, made.conv, made.norm = old.proj, old.conv, old.norm
        return self._like_neck(made)

    def _like_neck(self, module: _Module) -> _Module:
        parameter = next(self.neck.parameters())
        return module.to(parameter.device, parameter.dtype)


class BaselineHead(MultiTaskHead):
    """The multi-task baseline: all task heads read the neck's map."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__(in_channels, strides, config)
        self.reset_tasks(config.tasks)

    def forward_features(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, self.neck(levels))


def _neck(in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> nn.Module:
    """The neck that a configuration names, or else that of its family."""
    plain_vit = len(set(strides)) == 1
    pyramid = "patch" if config.family == "degmix" else "linear"
    name = config.neck or ("taps" if plain_vit else pyramid)
    # Up to stride 4, where the finest level of a pyramid is.
    scale = strides[0] / 4
    if name == "taps":
        return TapNeck(in_channels, config.width, scale=max(round(scale), 1))
    if name == "dpt":
        return DPTNeck(in_channels, config.width, scale=max(2 ** round(math.log2(scale)), 1) if plain_vit else None)
    return NECKS[name](in_channels, config.width)
