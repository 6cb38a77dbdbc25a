"""What a decoder has for each task, and how it follows when the tasks change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from demt.backbones import create_stages
from demt.config import ModelConfig
from demt.layers import DetailPyramid, DetailRefinement, DetailStem, TaskHead
from demt.tasks import Task, resolve_tasks

_Module = TypeVar("_Module", bound=nn.Module)


class TaskModules(nn.Module):
    """One head per task on maps of the neck's width, and with `refine_width` what refines its logits.

    Args:
        in_channels: Channels of the backbone's levels, from which the heads have their width by default.
        config: The model's configuration.
        neck: Whose device and type modules of new tasks get.
    """

    def __init__(self, in_channels: Sequence[int], config: ModelConfig, neck: nn.Module) -> None:
        super().__init__()
        self.config = config
        self._hidden = config.head_width or max(sum(in_channels) // 8, 1)
        self.neck = neck
        self.heads = nn.ModuleDict()
        self.encoders = nn.ModuleDict()
        if config.refine_width:
            self.details: nn.Module = nn.Identity()
            self.refinements = nn.ModuleDict()
        self.tasks: dict[str, Task] = {}

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
        width, refine_width = self.config.width, self.config.refine_width
        self.heads = self._with_logits(
            self.heads, resolved, lambda _, channels: TaskHead(width, channels, hidden_channels=self._hidden)
        )
        if refine_width:
            self._reset_details(resolved, refine_width)
            own = self.config.refine_stages
            self.refinements = self._with_logits(
                self.refinements,
                resolved,
                lambda name, channels: DetailRefinement(width, channels, own.get(name, (0, refine_width))[1]),
            )
        self.tasks = resolved
        # New modules come in training mode: give them the head's own.
        self.train(self.training)

    def _reset_details(self, tasks: Mapping[str, Task], width: int) -> None:
        """A stem for all tasks that have no encoder of their own, and the encoders of the others."""
        own, config = self.config.refine_stages, self.config
        if all(name in own for name in tasks):
            self.details = nn.Identity()
        elif not isinstance(self.details, DetailStem):
            self.details = self._like_neck(DetailStem(config.in_chans, width))
        self.encoders = nn.ModuleDict(
            {
                name: self.encoders[name] if name in self.encoders else self._like_neck(self._encoder(*own[name]))
                for name in tasks
                if name in own
            }
        )

    def copy_stages(self, backbone: nn.Module, names: Iterable[str]) -> None:
        """Give the encoders of these tasks the weights that the backbone's first stages have."""
        given = backbone.state_dict()
        with torch.no_grad():
            for name in names:
                encoder: Any = self.encoders[name]
                for key, value in encoder.stages.state_dict().items():
                    value.copy_(given[key])

    def _encoder(self, count: int, channels: int) -> DetailPyramid:
        config = self.config
        stages: Any = create_stages(config.backbone, count, in_chans=config.in_chans, **config.backbone_kwargs)
        return DetailPyramid(stages, stages.channels, channels)

    def _with_logits(
        self, old: nn.ModuleDict, tasks: Mapping[str, Task], build: Callable[[str, int], nn.Module]
    ) -> nn.ModuleDict:
        """An entry for each task, built for its channels; of one that stays only `logits` where these change."""
        made = nn.ModuleDict()
        for name, task in tasks.items():
            if name in old and self.tasks[name].channels == task.channels:
                made[name] = old[name]
                continue
            made[name] = self._like_neck(build(name, task.channels))
            if name in old and isinstance(old[name], type(made[name])):
                for part, module in old[name].named_children():
                    if part != "logits":
                        setattr(made[name], part, module)
        return made

    def _like_neck(self, module: _Module) -> _Module:
        parameter = next(self.neck.parameters())
        return module.to(parameter.device, parameter.dtype)
