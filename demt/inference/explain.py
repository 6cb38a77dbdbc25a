"""Looking inside a prediction: where the deformable operators sample, and which tasks a task attends to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.data.images import ImageLike, read_image
from demt.inference.attention import attended, shares
from demt.inference.forward import finite_logits, twin
from demt.inference.preprocess import prepare
from demt.layers import SpatialDeformable, TaskInteractionBlock, TaskQueryBlock
from demt.models import MultiTaskModel
from demt.models.demt import DeMTHead
from demt.ops import deform_sample

Pixel = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplePoints:
    """Where a deformable operator samples for one pixel of the image.

    Coordinates are (x, y) in the image's pixels, whose centres are at whole numbers.

    Args:
        xy: (G, 2), the position of each group of channels.
        inside: (G,), whether it is on the map; beyond it an operator reads zero.
        contribution: (G,), the length of what each adds to the operator's output at the pixel.
        origin: The centre of the map's cell that the pixel lies in: where all would be without offsets.
    """

    xy: NDArray[np.float64]
    inside: NDArray[np.bool_]
    contribution: NDArray[np.float64]
    origin: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _Operator:
    """A deformable operator and the map (1, D, h, w) that it got."""

    module: SpatialDeformable
    x: Tensor


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A block of attention, the map that asks and the maps that are asked."""

    block: TaskInteractionBlock | TaskQueryBlock
    x: Tensor
    fused: Tensor


class Explanation:
    """What a model did with one image; `explain` makes it.

    Attributes:
        image: The image (C, H, W) in [0, 1].
        tasks: The model's tasks, which are asked; the order of all tables.
        attention: How tasks ask each other: ``"pixelwise"``, ``"linear"``, ``"global"``, ``"window"`` or
            ``"deformable"``, see `demt.layers.TaskQueryBlock`.
        interaction: How tasks were fused before: ``"pointwise"``, ``"global"``, ``"window"`` or ``"deformable"``, see
            `demt.layers.TaskInteractionBlock`.
    """

    def __init__(
        self,
        image: Tensor,
        tasks: Sequence[str],
        operators: dict[str, list[_Operator]],
        queries: dict[str, _Asked],
        interactions: dict[str, _Asked],
    ) -> None:
        self.image, self.tasks = image, list(tasks)
        self._operators, self._queries, self._interactions = operators, queries, interactions
        first = queries[self.tasks[0]]
        self.attention: str = first.block.attention
        self.interaction: str = interactions[self.tasks[0]].block.attention if interactions else "pointwise"
        self.grid: tuple[int, int] = (first.x.shape[-2], first.x.shape[-1])

    @property
    def blocks(self) -> int:
        """Deformable operators in a row that each task has; 0 where there are none."""
        return len(next(iter(self._operators.values()), []))

    def cell(self, pixel: Pixel) -> tuple[int, int]:
        """Row and column of the map's cell that a pixel (x, y) of the image lies in.

        Raises:
            ValueError: for a pixel outside the image.
        """
        height, width = self.image.shape[-2:]
        x, y = _pixel(pixel)
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"Expected `pixel` (x, y) in an image of {width} x {height} (width x height), got {(x, y)}"
            )
        rows, columns = self.grid
        return min(int((y + 0.5) * rows / height), rows - 1), min(int((x + 0.5) * columns / width), columns - 1)

    @torch.inference_mode()
    def points(self, task: str, pixel: Pixel, block: int = 0) -> SamplePoints:
        """Where the operator of a task samples for a pixel (x, y) of the image.

        Args:
            task: Task.
            pixel: Column and row of the image.
            block: Which operator, of those in a row.

        Raises:
            ValueError: for an unknown task or block, or a pixel outside the image.
        """
        operator, (row, column) = self._operator(task, block), self.cell(pixel)
        offsets, contribution = _offsets_and_contribution(operator)
        dy, dx = offsets[:, :, row, column].double().unbind(1)
        rows, columns = self.grid
        y, x = row + dy, column + dx
        inside = (y > -1) & (y < rows) & (x > -1) & (x < columns)
        return SamplePoints(
            xy=torch.stack([self._to_image(x, 1), self._to_image(y, 0)], 1).cpu().numpy(),
            inside=inside.cpu().numpy(),
            contribution=contribution[:, row, column].double().cpu().numpy(),
            origin=(
                float(self._to_image(torch.tensor(float(column)), 1)),
                float(self._to_image(torch.tensor(float(row)), 0)),
            ),
        )

    @torch.inference_mode()
    def offsets(self, task: str, block: int = 0) -> NDArray[np.float32]:
        """Offsets (G, 2, h, w) of a task's operator, (x, y) in pixels of the image, for every cell of the map."""
        offsets, _ = _offsets_and_contribution(self._operator(task, block))
        return self._in_pixels(offsets).float().cpu().numpy()

    @torch.inference_mode()
    def flow(self, task: str, block: int = 0) -> NDArray[np.float32]:
        """Where an operator's output comes from: (2, h, w), (x, y) in pixels of the image.

        The mean of the offsets of all groups, each weighed by what it contributes. NaN where nothing is read: there all
        points are outside the map.
        """
        offsets, contribution = _offsets_and_contribution(self._operator(task, block))
        weights = contribution / contribution.sum(0)
        return (self._in_pixels(offsets) * weights[:, None]).sum(0).float().cpu().numpy()

    @torch.inference_mode()
    def shares(self, task: str) -> NDArray[np.float32]:
        """How much a task takes from each task, at each cell: (T, h, w), with a sum of 1 over T.

        See `demt.inference.attention.shares` for what that is with and without softmax.
        """
        asked = self._asked(task)
        return shares(asked.block, asked.x, asked.fused).float().cpu().numpy()

    @torch.inference_mode()
    def attended(self, task: str, pixel: Pixel) -> NDArray[np.float32]:
        """Where a task looks for a pixel (x, y): the share (T, h, w) of each cell of each task, with a sum of 1."""
        asked = self._asked(task)
        return attended(asked.block, asked.x, asked.fused, self.cell(pixel)).float().cpu().numpy()

    def table(self) -> NDArray[np.float64]:
        """How much each task (row) takes from each task (column), the mean of `shares` over the image: (T, T)."""
        return np.stack([self.shares(task).astype(np.float64).mean((1, 2)) for task in self.tasks])

    @torch.inference_mode()
    def interaction_table(self) -> NDArray[np.float64]:
        """The same of the block that fuses the tasks before they are asked; the identity where it is pointwise."""
        if not self._interactions:
            return np.eye(len(self.tasks))
        found = [self._interactions[task] for task in self.tasks]
        maps = [shares(each.block, each.x, each.fused).double().mean((1, 2)) for each in found]
        return torch.stack(maps).cpu().numpy()

    def _to_image(self, value: Any, axis: int) -> Any:
        """Coordinates of the map as those of the image: the map's cells lie over the image edge to edge."""
        side = self.image.shape[-2:][axis]
        return (value + 0.5) * side / self.grid[axis] - 0.5

    def _in_pixels(self, offsets: Tensor) -> Tensor:
        height, width = self.image.shape[-2:]
        scale = offsets.new_tensor([width / self.grid[1], height / self.grid[0]])
        return offsets.flip(1) * scale[:, None, None]

    def _operator(self, task: str, block: int) -> _Operator:
        operators = self._operators.get(self._known(task), [])
        if not operators:
            raise ValueError("The model has no deformable operators: it was built with depth 0")
        if block not in range(len(operators)):
            raise ValueError(f"Expected `block` in 0 to {len(operators) - 1}, got {block!r}")
        return operators[block]

    def _asked(self, task: str) -> _Asked:
        return self._queries[self._known(task)]

    def _known(self, task: str) -> str:
        if task not in self.tasks:
            raise ValueError(f"Unknown task {task!r}; the model has {self.tasks}")
        return task


def explain(model: MultiTaskModel, image: ImageLike, *, max_size: int | None = None) -> Explanation:
    """Run a model on an image and keep what its deformable operators and its attention got.

    Args:
        model: A model with a decoder (DeMT, DeMTG, DeGMix). It is left as it is, and the forward pass is its own.
        image: See `demt.predict`.
        max_size: See there.

    Raises:
        FileNotFoundError, ValueError: for an image that cannot be read, a model without such blocks, or one that gives
            NaN or infinite values.
    """
    if not isinstance(model, MultiTaskModel):
        raise ValueError(f"Expected `model` to be a demt model, got {type(model).__name__}; see demt.create_model")
    if not isinstance(model.head, DeMTHead):
        raise ValueError(
            "Expected a model of a family with a decoder (demt, demtg, degmix): the baseline has neither deformable "
            "operators nor attention to look at"
        )
    if max_size is not None and (isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1):
        raise ValueError(f"Expected `max_size` to be an integer >= 1, got {max_size!r}")
    values = read_image(image)
    watched = twin(model)
    head: Any = watched.head
    operators: dict[str, list[_Operator]] = {}
    queries: dict[str, _Asked] = {}
    interactions: dict[str, _Asked] = {}
    for task in watched.tasks:
        for module in head.mixers[task].modules():
            if isinstance(module, SpatialDeformable):
                module.register_forward_pre_hook(_keep_operator(operators.setdefault(task, [])))
        head.queries[task].register_forward_pre_hook(_keep_query(queries, task))
    if head.interaction.attention != "pointwise":
        head.interaction.register_forward_pre_hook(_keep_interaction(interactions, list(watched.tasks)))
    with torch.inference_mode():
        finite_logits(watched, prepare(watched, values, max_size or watched.pretrained_cfg.max_size))
    return Explanation(values, list(watched.tasks), operators, queries, interactions)


def _keep_operator(kept: list[_Operator]) -> Any:
    return lambda module, args: kept.append(_Operator(module, args[0]))


def _keep_query(kept: dict[str, _Asked], task: str) -> Any:
    def keep(module: Any, args: tuple[Tensor, Tensor]) -> None:
        kept[task] = _Asked(module, *args)

    return keep


def _keep_interaction(kept: dict[str, _Asked], tasks: list[str]) -> Any:
    def keep(module: Any, args: tuple[Tensor]) -> None:
        kept.update({task: _Asked(module, args[0][:, place], args[0]) for place, task in enumerate(tasks)})

    return keep


def _offsets_and_contribution(operator: _Operator) -> tuple[Tensor, Tensor]:
    """Offsets (G, 2, h, w) as (rows, columns) of the map, and the length (G, h, w) of what each group adds."""
    module, x = operator.module, operator.x
    offsets = module.offsets(x)
    sampled = deform_sample(x, offsets)[0]
    groups = offsets.shape[1] // 2
    weight = module.proj.weight[..., 0, 0].unflatten(1, (groups, -1)).to(torch.promote_types(x.dtype, torch.float32))
    gram = torch.einsum("ogc,ogd->gcd", weight, weight)
    sampled = sampled.unflatten(0, (groups, -1)).to(gram)
    squares = torch.einsum("gchw,gcd,gdhw->ghw", sampled, gram, sampled)
    return offsets[0].unflatten(0, (groups, 2)), squares.clamp_min(0).sqrt()


def _pixel(pixel: Any) -> Pixel:
    if (
        not isinstance(pixel, (tuple, list))
        or len(pixel) != 2
        or not all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in pixel)
    ):
        raise ValueError(f"Expected `pixel` as two whole numbers (x, y), got {pixel!r}")
    return int(pixel[0]), int(pixel[1])
