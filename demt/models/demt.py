"""DeMT, DeMTG and DeGMix: from the levels of a backbone to a map for each task.

Xu et al., DeMT, AAAI 2023 (arXiv 2301.03461); Xu et al., DeMTG and DeGMix (arXiv 2308.05721). Numbers in brackets are
equations of the first. The blocks are in `demt.layers.blocks`, in the same order; which of them a family has and how
they attend is `demt.models.variants.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from demt.config import ModelConfig
from demt.layers import DeformableMixer, GatingAttention, TaskInteractionBlock, TaskQueryBlock
from demt.layers.blocks import ask_together
from demt.models.baseline import MultiTaskHead
from demt.ops import by_rows, can_be_taken_apart, interact_and_query, stack_tasks
from demt.ops.dispatch import standard_operators_are_asked


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
        x = self.neck(levels)  # [1] (B, D, h, w)
        mixed = []
        for task in self.tasks:
            mixed.append(self.run(self.mixers[task], x))  # [2-4]
        del x  # its memory
        if self.config.interaction == "pointwise" and self.config.query == "pixelwise":
            # No pixel sees another. Without mixers all tasks share the neck's map, whose memory is still needed.
            maps = by_rows(self.decode, mixed, owner=self, reuse=mixed if self.config.depth else ())
        else:
            maps = self.decode(*mixed)
        return dict(zip(self.tasks, maps))

    def decode(self, *mixed: Tensor) -> list[Tensor]:
        """The mixed maps (B, D, h, w) of the tasks to their final ones: interaction, queries, gating."""
        if self._in_one_pass():
            queries = [block.layers() for block in self._query_blocks()]
            return [
                self.gating(z) for z in interact_and_query(mixed, self.interaction.layers(), queries, self.config.heads)
            ]
        stacked = stack_tasks(mixed)  # S (B, T, D, h, w)
        fused = self.run(self.interaction, stacked)  # [5]
        if standard_operators_are_asked() and self.config.query == "pixelwise":
            return [self.gating(z) for z in ask_together(self._query_blocks(), stacked.unbind(1), fused)]
        return [self.run(self._ask, task, x, fused) for task, x in zip(self.tasks, stacked.unbind(1))]

    def _query_blocks(self) -> list[TaskQueryBlock]:
        return [cast(TaskQueryBlock, self.queries[task]) for task in self.tasks]

    def _in_one_pass(self) -> bool:
        """Whether this is training in which no pixel sees another, and nobody looks at the blocks."""
        blocks = [self.interaction, *self._query_blocks()]
        return (
            self.training
            and not self.grad_checkpointing
            and self.config.interaction == "pointwise"
            and self.config.query == "pixelwise"
            and all(can_be_taken_apart(block, TaskInteractionBlock, TaskQueryBlock) for block in blocks)
        )

    def _ask(self, task: str, x: Tensor, fused: Tensor) -> Tensor:
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
