"""Predictions on images of any size in bounded memory: overlapping tiles, blended into one map.

Tiles are blended in what a prediction means, before its last, discrete step: class maps and probabilities as
probabilities, where a tile's say is bounded by its weight however large its logits are; normals as unit vectors, as the
length of what the network puts out has no meaning; other values as they are. Weights fall linearly towards a tile's
inner borders. The mean is updated tile by tile, so that tiles that agree give exactly what they agree on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.images import prepare
from demt.models import MultiTaskModel
from demt.tasks import Task

Window = tuple[int, int]


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


def predict_tiled(
    model: MultiTaskModel, image: Tensor, tile: tuple[int, int], overlap: tuple[int, int], batch_size: int
) -> dict[str, NDArray[Any]]:
    """Every task's prediction on one image (C, H, W) in [0, 1], as `demt.predict` gives it.

    Beside image and predictions, memory holds `batch_size` tiles and, per channel of the tasks, a band as long as the
    image's shorter side and as wide as a tile.
    """
    # Bands lie across the longer side, so that they are short.
    turned = image.shape[2] > image.shape[1]
    if turned:
        image, tile, overlap = image.mT, tile[::-1], overlap[::-1]
    height, width = image.shape[1:]
    align = max(model.backbone.strides)
    across, along = windows(width, tile[1], overlap[1], align), windows(height, tile[0], overlap[0], align)
    outputs = {name: _empty(task, height, width) for name, task in model.tasks.items()}
    band = _Band(width)
    for top, bottom in along:
        _finish(model, band.take(top), outputs)
        rows = _ramp(top, bottom, height, overlap[0])
        for batch in _batches(across, batch_size):
            crops = [image[:, top:bottom, left:right] for left, right in batch]
            inputs = torch.cat([prepare(model, crop.mT if turned else crop, None) for crop in crops])
            with torch.inference_mode():
                blendable = {name: _blendable(model.tasks[name], maps) for name, maps in model(inputs).items()}
            for index, (left, right) in enumerate(batch):
                weight = rows[:, None] * _ramp(left, right, width, overlap[1])
                maps = {name: values[index].mT if turned else values[index] for name, values in blendable.items()}
                band.add(maps, weight.to(inputs.device), top, left)
    _finish(model, band.take(height), outputs)
    return {name: values.swapaxes(-1, -2).copy() if turned else values for name, values in outputs.items()}


class _Band:
    """Weighted means of the tiles seen so far, for the rows that are not finished."""

    def __init__(self, width: int) -> None:
        self.width, self.top = width, 0
        self.means: dict[str, Tensor] = {}
        self.weight = torch.zeros(0, width)

    def add(self, maps: dict[str, Tensor], weight: Tensor, top: int, left: int) -> None:
        """Blend maps (K, h, w) in at a row and a column of the image."""
        height, width = weight.shape
        start, stop = top - self.top, top - self.top + height
        self.weight = _with_rows(self.weight.to(weight.device), stop)
        area = (slice(start, stop), slice(left, left + width))
        self.weight[area] += weight
        share = weight / self.weight[area]
        for name, values in maps.items():
            mean = self.means.get(name, values.new_zeros(len(values), 0, self.width))
            mean = self.means[name] = _with_rows(mean, stop)
            mean[:, area[0], area[1]] += share * (values - mean[:, area[0], area[1]])

    def take(self, bottom: int) -> tuple[int, dict[str, Tensor]]:
        """Row and maps of what lies above row `bottom` of the image, which are forgotten."""
        top, count = self.top, bottom - self.top
        taken = {name: mean[:, :count] for name, mean in self.means.items()}
        self.means = {name: mean[:, count:].clone() for name, mean in self.means.items()}
        self.weight, self.top = self.weight[count:].clone(), bottom
        return top, taken


def _with_rows(maps: Tensor, rows: int) -> Tensor:
    missing = rows - maps.shape[-2]
    return torch.nn.functional.pad(maps, (0, 0, 0, missing)) if missing > 0 else maps


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


def _blendable(task: Task, logits: Tensor) -> Tensor:
    """Maps (B, K, H, W) of which weighted means make sense."""
    if task.activation == "argmax":
        return logits.float().softmax(1)
    values = task.predict(logits)
    return values[:, None] if values.ndim == 3 else values


def _finish(model: MultiTaskModel, taken: tuple[int, dict[str, Tensor]], outputs: dict[str, NDArray[Any]]) -> None:
    """Make predictions of blended rows, and write them to their place."""
    top, means = taken
    for name, mean in means.items():
        task, output = model.tasks[name], outputs[name]
        if task.activation == "argmax":
            mean = mean.argmax(0)
        elif task.activation == "unit":
            mean = task.predict(mean[None])[0]
        values = mean.cpu().numpy()
        output[..., top : top + values.shape[-2], :] = values[0] if values.ndim > output.ndim else values


def _empty(task: Task, height: int, width: int) -> NDArray[Any]:
    if task.activation == "argmax":
        return np.empty((height, width), np.uint8 if task.channels <= 256 else np.uint16)
    single = task.activation == "foreground" or task.channels == 1
    return np.empty((height, width) if single else (task.channels, height, width), np.float32)
