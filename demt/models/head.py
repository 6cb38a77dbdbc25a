"""What stands behind the backbone: a neck, the decoder of a family, and one head per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from demt.config import ModelConfig
from demt.layers import (
    DeformableMixer,
    GatingAttention,
    LinearNeck,
    PatchNeck,
    TapNeck,
    TaskHead,
    TaskInteractionBlock,
    TaskQueryBlock,
    token_gram,
)
from demt.layers.rows import by_rows
from demt.layers.tokens import stack_tasks
from demt.tasks import Task, resolve_tasks

_Module = TypeVar("_Module", bound=nn.Module)


class MultiTaskHead(nn.Module):
    """Neck and task heads: the multi-task baseline, and the base of the DeMT decoder.

    Args:
        in_channels, strides: Channels and strides of the backbone's levels.
        config: The model's configuration.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        self._hidden = config.head_width or max(sum(in_channels) // 8, 1)
        isotropic = len(set(strides)) == 1
        default = "taps" if isotropic else "patch" if config.family == "degmix" else "linear"
        self.neck: nn.Module
        if (config.neck or default) == "taps":
            # Up to stride 4, where the finest level of a pyramid is.
            self.neck = TapNeck(in_channels, config.width, scale=max(round(strides[0] / 4), 1))
        else:
            neck = PatchNeck if (config.neck or default) == "patch" else LinearNeck
            self.neck = neck(in_channels, config.width)
        self.heads = nn.ModuleDict()
        self.tasks: dict[str, Task] = {}

    def reset_tasks(self, tasks: Mapping[str, Any]) -> None:
        """Set the tasks. Modules of a task that stays are kept, but for its logits where its channels change."""
        resolved = resolve_tasks(tasks)
        # Rebuilt in task order, so that state dicts list tasks in that order too.
        for modules, build in self._task_modules().items():
            old = getattr(self, modules)
            setattr(self, modules, nn.ModuleDict({name: old[name] if name in old else build() for name in resolved}))
        heads = {}
        for name, task in resolved.items():
            kept = name in self.tasks and self.tasks[name].channels == task.channels
            heads[name] = (
                self.heads[name] if kept else self._new_head(task, self.heads[name] if name in self.tasks else None)
            )
        self.heads = nn.ModuleDict(heads)
        self.tasks = resolved
        # New modules come in training mode: give them the head's own.
        self.train(self.training)

    def _task_modules(self) -> dict[str, Callable[[], nn.Module]]:
        return {}

    def _new_head(self, task: Task, old: nn.Module | None) -> TaskHead:
        head = TaskHead(self.config.width, task.channels, hidden_channels=self._hidden)
        if isinstance(old, TaskHead):
            head.conv, head.norm = old.conv, old.norm
        return self._like_neck(head)

    def _like_neck(self, module: _Module) -> _Module:
        parameter = next(self.neck.parameters())
        return module.to(parameter.device, parameter.dtype)

    def forward_features(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Task maps (B, D, h, w), the inputs of the task heads."""
        neck = self.neck(levels)
        return dict.fromkeys(self.tasks, neck)

    def forward_head(self, features: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Logits (B, channels, *size) per task, from `forward_features`."""
        return {name: self._run(self.heads[name], features[name], size) for name in self.tasks}

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Backbone levels, finest first, to logits (B, channels, *size) per task, at the head's own size by default."""
        return self.forward_head(self.forward_features(levels), size)

    def _run(self, module: Callable[..., Any], *args: Any) -> Any:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(module, *args, use_reentrant=False)
        return module(*args)


class BaselineHead(MultiTaskHead):
    """Neck and task heads only."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__(in_channels, strides, config)
        self.reset_tasks(config.tasks)


class DeMTHead(MultiTaskHead):
    """The DeMT, DeMTG and DeGMix decoder: per task a deformable mixer encoder on the neck's map, the task interaction
    block over all tasks, per task a query block, shared gating attention (DeMTG, DeGMix), and the task heads.
    arXiv 2301.03461 and 2308.05721.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__(in_channels, strides, config)
        self.mixers = nn.ModuleDict()
        self.interaction = TaskInteractionBlock(config.width, heads=config.heads, attention=config.interaction)
        self.queries = nn.ModuleDict()
        self.gating = GatingAttention(config.width) if config.gating else None
        self.reset_tasks(config.tasks)

    def _task_modules(self) -> dict[str, Callable[[], nn.Module]]:
        return {"mixers": self._new_mixer, "queries": self._new_query}

    def _new_mixer(self) -> nn.Module:
        c = self.config
        if c.depth == 0:
            return nn.Identity()
        return self._like_neck(
            DeformableMixer(c.width, depth=c.depth, offset_groups=c.offset_groups, initial_offsets=c.initial_offsets)
        )

    def _new_query(self) -> nn.Module:
        c = self.config
        return self._like_neck(TaskQueryBlock(c.width, heads=c.heads, attention=c.query, pre_norm=c.pre_norm))

    def forward_features(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        neck = self.neck(levels)
        mixed = []
        for name in self.tasks:
            mixed.append(self._run(self.mixers[name], neck))
        del neck
        if self.config.interaction == "pointwise" and self.config.query == "pixelwise":
            # Without mixers all tasks share the neck's map: its memory is still needed.
            features = by_rows(self._decode, mixed, self, reuse=mixed if self.config.depth else ())
        else:
            features = self._decode(*mixed)
        return dict(zip(self.tasks, features))

    def _decode(self, *mixed: Tensor) -> list[Tensor]:
        stacked = stack_tasks(mixed)
        fused = self._run(self.interaction, stacked)
        gram = token_gram(fused) if self.config.query == "linear" else None
        return [self._run(self._decode_task, name, x, fused, gram) for name, x in zip(self.tasks, stacked.unbind(1))]

    def _decode_task(self, name: str, x: Tensor, fused: Tensor, gram: Tensor | None) -> Tensor:
        z: Tensor = self.queries[name](x, fused, gram=gram)
        return z if self.gating is None else self.gating(z)
