"""DeMT, DeMTG and DeGMix: from the levels of a backbone to a map for each task.

Xu et al., DeMT, AAAI 2023 (arXiv 2301.03461); Xu et al., DeMTG and DeGMix (arXiv 2308.05721). Numbers in brackets are
equations of the first. The blocks are in `demt.layers.blocks`, in the same order; which of them a family has and how
they attend is `demt.models.variants.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from demt.config import ModelConfig
from demt.layers import DeformableMixer, GatingAttention, TaskInteractionBlock, TaskQueryBlock
from demt.models.baseline import MultiTaskHead
from demt.ops import stack_tasks, tasks_together


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
