"""Multi-task decoders: from the levels of a backbone to a map for each task, and on to logits.

The baseline, and DeMT, DeMTG and DeGMix: Xu et al., DeMT, AAAI 2023 (arXiv 2301.03461); Xu et al., DeMTG and DeGMix
(arXiv 2308.05721). Numbers in brackets are equations of the first. The blocks are in `demt.layers.blocks`, in the same
order; which of them a family has and how they attend is `demt.models.variants.FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from demt.config import ModelConfig
from demt.layers import (
    NECKS,
    DeformableMixer,
    DPTNeck,
    GatingAttention,
    TapNeck,
    TaskInteractionBlock,
    TaskQueryBlock,
)
from demt.models.task_modules import TaskModules
from demt.ops import resize, stack_tasks, tasks_together
from demt.ops.checkpoint import recomputed


class MultiTaskHead(TaskModules):
    """Backbone levels to logits: a neck, something between that a subclass adds, and one head per task.

    With `refine_width`, details of the image refine the logits of every head at half the image's size.

    Args:
        in_channels, strides: Channels and strides of the backbone's levels.
        config: The model's configuration.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__(in_channels, config, _neck(in_channels, strides, config))
        self.grad_checkpointing = False

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
        shared = self.run(self.details, images)
        details = {name: self.run(encode, images) for name, encode in self.encoders.items()}
        return {
            name: self.run(self._refined, name, features[name], details.get(name, shared), size) for name in self.tasks
        }

    def _refined(self, task: str, x: Tensor, details: Tensor, size: tuple[int, int] | None) -> Tensor:
        logits: Tensor = self.refinements[task](self.heads[task](x), x, details)
        return logits if size is None else resize(logits, size)

    def run(self, module: Callable[..., Any], *args: Any) -> Any:
        """`module(*args)`; with gradient checkpointing, computed again in the backward pass."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return recomputed(self, module, *args)
        return module(*args)


class BaselineHead(MultiTaskHead):
    """The multi-task baseline: all task heads read the neck's map."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__(in_channels, strides, config)
        self.reset_tasks(config.tasks)

    def forward_features(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, self.neck(levels))


class DeMTHead(MultiTaskHead):
    """The decoder of the three families, with B images, T tasks and width D.

    A neck; per task a deformable mixer encoder on the neck's map; the task interaction block over all tasks; per task
    a query block; gating attention, shared by all tasks (DeMTG, DeGMix); the task heads.

    Args:
        in_channels, strides: Channels and strides of the backbone's levels.
        config: The model's configuration.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__(in_channels, strides, config)
        self.mixers = nn.ModuleDict()
        self.interaction = TaskInteractionBlock(
            config.width,
            heads=config.heads,
            attention=config.interaction,
            window=config.window,
            points=config.points,
        )
        self.queries = nn.ModuleDict()
        self.gating = GatingAttention(config.width) if config.gating else nn.Identity()
        self.reset_tasks(config.tasks)

    def forward_features(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        mixed = self.mix(self.neck(levels))  # [1] one map (B, D, h, w), [2-4] one of each task
        return dict(zip(self.tasks, self.decode(*mixed)))

    def mix(self, x: Tensor) -> list[Tensor]:
        """The neck's map (B, D, h, w) to one of each task, by its mixer."""
        return [self.run(self.mixers[task], x) for task in self.tasks]

    @tasks_together
    def decode(self, *mixed: Tensor) -> list[Tensor]:
        """The mixed maps (B, D, h, w) of the tasks to their final ones: interaction, queries, gating."""
        stacked = stack_tasks(mixed)  # S (B, T, D, h, w)
        fused = self.run(self.interaction, stacked)  # [5] F
        return [self.run(self.ask, task, x, fused) for task, x in zip(self.tasks, stacked.unbind(1))]

    def ask(self, task: str, x: Tensor, fused: Tensor) -> Tensor:
        """What a task's map (B, D, h, w) finds in the fused maps (B, T, D, h, w) of all tasks, gated."""
        z: Tensor = self.gating(self.queries[task](x, fused))  # [6, 7]
        return z

    def task_modules(self) -> dict[str, Callable[[], nn.Module]]:
        return {"mixers": self._mixer, "queries": self._query}

    def _mixer(self) -> nn.Module:
        c = self.config
        if c.depth == 0:
            return nn.Identity()
        return DeformableMixer(c.width, depth=c.depth, offset_groups=c.offset_groups, initial_offsets=c.initial_offsets)

    def _query(self) -> nn.Module:
        c = self.config
        # Where both blocks attend in windows, those of the query reach over the edges of the interaction's.
        shift = c.window // 2 if c.interaction == c.query == "window" else 0
        return TaskQueryBlock(
            c.width,
            heads=c.heads,
            attention=c.query,
            pre_norm=c.pre_norm,
            window=c.window,
            shift=shift,
            points=c.points,
        )


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
