"""What label maps hold, summed up over many of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demt.data.tv_tensors import IGNORE, Label, SurfaceNormals
from demt.labels import is_class_map
from demt.tasks import Task

#: Vectors this much longer or shorter than 1 are none that 8 bits or JPEG made of unit vectors.
_OFF = 0.1


@dataclass
class Values:
    """Statistics of the maps of one task, or of images.

    Attributes:
        files: Number of maps.
        pixels: Number of pixels.
        labelled: Pixels that have a label.
        low: Smallest value; of normals, the smallest length, as for the next two.
        high: Largest value.
        total: Sum of the values.
        off_unit: Of normals, vectors whose length is not 1.
        classes: Of class maps, the number of pixels of each class.
        sizes: Number of maps of each height and width.
    """

    files: int = 0
    pixels: int = 0
    labelled: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    off_unit: int = 0
    classes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return self.total / max(self.labelled, 1)

    def add(self, other: Values) -> None:
        """Take in what another has seen."""
        for name in ("files", "pixels", "labelled", "total", "off_unit", "classes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.sizes.update(other.sizes)


def values_of_image(pixels: NDArray[np.uint8]) -> Values:
    """Of an image (H, W, 3)."""
    count = pixels.shape[0] * pixels.shape[1]
    return Values(files=1, pixels=count, labelled=count, sizes=Counter([pixels.shape[:2]]))


def values_of_label(label: Label, task: Task) -> Values:
    """Of a label map (C, H, W)."""
    maps: NDArray[Any] = label.as_subclass(torch.Tensor).numpy()
    height, width = maps.shape[1:]
    values = Values(files=1, pixels=height * width, sizes=Counter([(height, width)]))
    labelled = (maps != IGNORE).all(0)
    values.labelled = int(labelled.sum())
    if is_class_map(task):
        values.classes = np.bincount(maps[0][labelled], minlength=256)
    if not values.labelled:
        return values
    known = maps[:, labelled].astype(np.float64)
    if isinstance(label, SurfaceNormals):
        known = np.linalg.norm(known, axis=0, keepdims=True)
        values.off_unit = int((np.abs(known - 1) > _OFF).sum())
    values.low, values.high, values.total = float(known.min()), float(known.max()), float(known.mean(0).sum())
    return values
