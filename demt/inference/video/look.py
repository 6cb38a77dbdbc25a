"""How a frame and its predictions look in a video."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demt.inference.prediction import Prediction
from demt.tasks import Task
from demt.viz import task_picture, title

#: Share by which the range of colours follows a frame's: that of single frames would flicker.
_PACE = 0.1


class Look:
    """Pictures of a video's frames, with colours of depth and other values that change slowly.

    Args:
        tasks: Of the predictions.
        cell_width: Largest width of a picture, in pixels; it is even, as most encoders want it.
    """

    def __init__(self, tasks: Mapping[str, Task], cell_width: int) -> None:
        self.tasks, self.cell_width = tasks, cell_width
        self.ranges: dict[str, tuple[float, float]] = {}

    def pictures(self, prediction: Prediction) -> dict[str, Image.Image]:
        """One picture for each task, all of one even size."""
        size = self._size(prediction.image)
        return {name: self._picture(self.tasks[name], values, size) for name, values in prediction.items()}

    def beside(self, prediction: Prediction) -> Image.Image:
        """The frame and all tasks in one picture, with their titles."""
        size = self._size(prediction.image)
        cells = {"Image": prediction.image.resize(size, Image.Resampling.LANCZOS)}
        cells |= {title(self.tasks[name]): picture for name, picture in self.pictures(prediction).items()}
        rows = math.isqrt(len(cells))
        columns = math.ceil(len(cells) / rows)
        canvas = Image.new("RGB", (columns * size[0], rows * size[1]))
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(size[1] // 18, 10))
        for index, (text, picture) in enumerate(cells.items()):
            corner = (index % columns * size[0], index // columns * size[1])
            canvas.paste(picture, corner)
            draw.text((corner[0] + 4, corner[1] + 2), text, "white", font, stroke_width=2, stroke_fill="black")
        return canvas

    def _size(self, image: Image.Image) -> tuple[int, int]:
        scale = min(1.0, self.cell_width / image.width)
        return _even(image.width * scale), _even(image.height * scale)

    def _picture(self, task: Task, values: NDArray[Any], size: tuple[int, int]) -> Image.Image:
        limits = self._limits(task.name, values) if task.activation == "identity" else None
        resample = Image.Resampling.NEAREST if task.activation == "argmax" else Image.Resampling.BILINEAR
        return task_picture(task, values, limits=limits).resize(size, resample).convert("RGB")

    def _limits(self, name: str, values: NDArray[Any]) -> tuple[float, float]:
        low, high = (float(value) for value in np.percentile(values, (1, 99)))
        if name in self.ranges:
            before = self.ranges[name]
            low, high = (old + _PACE * (new - old) for old, new in zip(before, (low, high)))
        self.ranges[name] = low, high
        return low, high


def _even(side: float) -> int:
    return max(round(side / 2) * 2, 2)
