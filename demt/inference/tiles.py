"""Predictions on images of any size in bounded memory: overlapping tiles, blended into one map.

`demt.inference.blend` says what is blended. Weights fall linearly towards a tile's inner borders. The mean is updated
tile by tile, so that tiles that agree give exactly what they agree on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.inference.blend import blendable, finish
from demt.inference.forward import finite_logits
from demt.inference.preprocess import prepare
from demt.models import MultiTaskModel
from demt.tasks import Task

Window = tuple[int, int]
Area = tuple[slice, slice]


def windows(side: int, tile: int, overlap: int, align: int = 1) -> list[Window]:
    """Start and stop of tiles that cover a side, neighbours sharing at least `overlap` pixels.

    Starts are multiples of `align` (where tiles are longer than that), as networks see the same in a shifted image only
    if it is shifted by a multiple of their stride. Tiles have `tile` pixels, the last one up to ``align - 1`` fewer.

    Example:
        >>> windows(1000, 400, 100)
        [(0, 400), (300, 700), (600, 1000)]
        >>> windows(300, 400, 100)
        [(0, 300)]
    """
    if side <= tile:
        return [(0, side)]
    align = align if tile - overlap >= align else 1
    step = (tile - overlap) // align * align
    last = -(-(side - tile) // align) * align
    return [(start, start + tile) for start in range(0, last, step)] + [(last, side)]


@torch.inference_mode()
def predict_tiled(
    model: MultiTaskModel, image: Tensor, tile: tuple[int, int], overlap: tuple[int, int], batch_size: int
) -> dict[str, NDArray[Any]]:
    """Every task's prediction on one image (C, H, W) in [0, 1], as `demt.predict` gives it.

    Beside image and predictions, memory holds `batch_size` tiles and, per channel of the tasks, a band as long as the
    image's shorter side and as wide as a tile.

    Raises:
        ValueError: for a tile that does not fit the model, or NaN or infinite values that it gives.
    """
    outputs = {name: _empty(task, *image.shape[1:]) for name, task in model.tasks.items()}
    # Bands lie across the longer side, so that they are short.
    turned = image.shape[2] > image.shape[1]
    views = {name: values.swapaxes(-1, -2) if turned else values for name, values in outputs.items()}
    if turned:
        image, tile, overlap = image.mT, tile[::-1], overlap[::-1]
    height, width = image.shape[1:]
    align = max(model.backbone.strides)
    across, along = windows(width, tile[1], overlap[1], align), windows(height, tile[0], overlap[0], align)
    weight = torch.zeros(max(bottom - top for top, bottom in along), width, device=next(model.parameters()).device)
    band = _Band(weight, turned)
    for top, bottom in along:
        band.move_to(top, model.tasks, views)
        rows = _ramp(top, bottom, height, overlap[0])
        for batch in _batches(across, batch_size):
            crops = [image[:, top:bottom, left:right] for left, right in batch]
            inputs = torch.cat([prepare(model, crop.mT if turned else crop, None) for crop in crops])
            logits = finite_logits(model, inputs)
            areas = [(slice(bottom - top), slice(left, right)) for left, right in batch]
            shares = band.shares(areas, [rows[:, None] * _ramp(*each, width, overlap[1]) for each in batch])
            for name in list(logits):
                # Each task's logits go before the next task's are made into something else.
                values = blendable(model.tasks[name], logits.pop(name))
                band.blend(name, values.mT if turned else values, areas, shares)
    band.move_to(height, model.tasks, views)
    return outputs


class _Band:
    """Weighted means of the tiles seen so far, for the rows of the image that are not finished."""

    def __init__(self, weight: Tensor, turned: bool) -> None:
        self.top, self.weight, self.turned = 0, weight, turned
        self.means: dict[str, Tensor] = {}

    def shares(self, areas: list[Area], weights: list[Tensor]) -> list[Tensor]:
        """What each of these tiles, one after the other, contributes to the mean."""
        shares = []
        for area, weight in zip(areas, weights):
            weight = weight.to(self.weight.device)
            self.weight[area] += weight
            shares.append(weight / self.weight[area])
        return shares

    def blend(self, name: str, maps: Tensor, areas: list[Area], shares: list[Tensor]) -> None:
        """Update a task's means with the maps (B, K, h, w) of tiles; overwrites them."""
        if name not in self.means:
            # In memory as the maps, which are the network's, turned or not.
            shape = self.weight.mT.shape if self.turned else self.weight.shape
            mean = maps.new_zeros(maps.shape[1], *shape)
            self.means[name] = mean.mT if self.turned else mean
        for values, area, share in zip(maps, areas, shares):
            mean = self.means[name][:, area[0], area[1]]
            share = share.mT.contiguous().mT if self.turned else share
            mean += values.sub_(mean).mul_(share)

    def move_to(self, top: int, tasks: Mapping[str, Task], outputs: dict[str, NDArray[Any]]) -> None:
        """Finish the rows above row `top` of the image, and forget them."""
        count = top - self.top
        if count == 0:
            return
        for name, mean in self.means.items():
            rows = mean[:, :count]
            finished = finish(tasks[name], rows.mT).mT if self.turned else finish(tasks[name], rows)
            outputs[name][..., self.top : top, :] = finished.cpu().numpy()
        for kept in (self.weight, *self.means.values()):
            rest = kept.shape[-2] - count
            kept[..., :rest, :] = kept[..., count:, :].clone()
            kept[..., rest:, :] = 0
        self.top = top


def _ramp(start: int, stop: int, side: int, overlap: int) -> Tensor:
    """Weights of a tile's pixels along one side: 1, falling linearly over `overlap` pixels to its inner borders."""
    position = torch.arange(stop - start) + 0.5
    weight = torch.ones(stop - start)
    if start > 0 and overlap:
        weight = torch.minimum(weight, position / overlap)
    if stop < side and overlap:
        weight = torch.minimum(weight, position.flip(0) / overlap)
    return weight


def _batches(across: list[Window], batch_size: int) -> Iterator[list[Window]]:
    """Tiles of one size run together; the last may have another."""
    for width in dict.fromkeys(right - left for left, right in across):
        members = [window for window in across if window[1] - window[0] == width]
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


def _empty(task: Task, height: int, width: int) -> NDArray[Any]:
    if task.activation == "argmax":
        return np.empty((height, width), np.uint8 if task.channels <= 256 else np.uint16)
    single = task.activation == "foreground" or task.channels == 1
    return np.empty((height, width) if single else (task.channels, height, width), np.float32)
