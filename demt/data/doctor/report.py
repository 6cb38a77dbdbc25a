"""What a check of a data set found: problems, and what the label maps hold, summed up over all of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from demt.data.dataset import FileDataset
from demt.data.files import orientation
from demt.data.tv_tensors import IGNORE, Boundary, Label, SurfaceNormals
from demt.tasks import Task, is_class_map

#: Files of which it says something that all hold the same class, or that all lack a thing which most may lack.
_SOME, _MANY = 4, 50

Kind = Literal["split", "missing", "empty", "invalid", "size", "implausible"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: ``"split"`` a list or a count; ``"missing"`` a file; ``"empty"`` a file of no bytes; ``"invalid"`` a file
            that cannot be read or holds other values than the layout says; ``"size"`` a map or image of another height
            or width; ``"implausible"`` files that can be read, but are hardly what their place says.
        message: In words.
        split: Split.
        task: Task, or ``"image"``.
        id: Sample.
        file: File, below the data set's folder.
    """

    kind: Kind
    message: str
    split: str | None = None
    task: str | None = None
    id: str | None = None
    file: str | None = None


@dataclasses.dataclass
class SplitCount:
    """Samples of a split: that are listed, that there should be (if that is known), that were opened, and of those
    that are whole."""

    listed: int
    known: int | None = None
    opened: int = 0
    whole: int = 0


#: Vectors this much longer or shorter than 1 are none that 8 bits or JPEG made of unit vectors.
_OFF = 0.1


@dataclasses.dataclass
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
        soft: Of boundaries, values between 0 and 1.
        turned: Of images, those that an EXIF orientation tag turns.
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
    soft: int = 0
    turned: int = 0
    classes: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return self.total / max(self.labelled, 1)

    def add(self, other: Values) -> None:
        """Take in what another has seen."""
        for name in ("files", "pixels", "labelled", "total", "off_unit", "soft", "turned", "classes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.sizes.update(other.sizes)


def values_of_image(pixels: NDArray[np.uint8], path: Path) -> Values:
    """Of an image (H, W, C) and its file."""
    count, turned = pixels.shape[0] * pixels.shape[1], int(orientation(path) > 1)
    return Values(files=1, pixels=count, labelled=count, turned=turned, sizes=Counter([pixels.shape[:2]]))


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
    if isinstance(label, Boundary):
        values.soft = int(((known > 0) & (known < 1)).sum())
    values.low, values.high, values.total = float(known.min()), float(known.max()), float(known.mean(0).sum())
    return values


@dataclasses.dataclass
class Report:
    """What a check found.

    Attributes:
        root: Folder of the data set.
        dataset: ``"nyud"``, ``"pascal"``, ``"cityscapes"``, or None for own data.
        layout: Name of its layout, or None.
        tasks: Tasks that were checked.
        datasets: The data set of each split that could be opened.
        splits: Samples of each split.
        values: What was seen in the images, under ``"image"``, and in the labels of each task.
        problems: What is wrong; nothing if the data set is whole.
        notes: What is worth knowing, but not a problem.
    """

    root: Path
    dataset: str | None
    layout: str | None
    tasks: Mapping[str, Task]
    datasets: Mapping[str, FileDataset]
    splits: dict[str, SplitCount]
    values: dict[str, Values] = dataclasses.field(default_factory=dict)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add_plausibility(self) -> None:
        """Judge what all maps of a task show together."""
        for name, task in self.tasks.items():
            if name in self.values and (message := _implausible(task, self.values[name])):
                self.problems.append(Problem(kind="implausible", message=message, task=name))
            if name in self.values and (soft := self.values[name].soft):
                share = f"{soft / self.values[name].labelled:.1%}"
                self.notes.append(
                    f"{name}: {share} of the labels lie between 0 and 1: losses take them as they are, evaluation "
                    "counts those of 0.5 and above as boundaries"
                )
        if "image" in self.values and (turned := self.values["image"].turned):
            self.notes.append(
                f"{turned} images are turned by an EXIF orientation tag; their labels must be drawn on the turned "
                "image, or carry the tag, too"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "root": str(self.root),
            "dataset": self.dataset,
            "layout": self.layout,
            "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()},
            "values": {name: _to_dict(self.tasks.get(name), values) for name, values in self.values.items()},
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "notes": self.notes,
        }


def _to_dict(task: Task | None, values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {"files": values.files}
    if task is None:
        return {**found, "sizes": {f"{height}x{width}": n for (height, width), n in values.sizes.items()}}
    found |= {"pixels": values.pixels, "labelled": values.labelled}
    if is_class_map(task):
        return {**found, "classes": values.classes[: task.channels].tolist()}
    if not values.labelled:
        return found
    length = "length_" if task.activation == "unit" else ""
    return {**found, f"{length}low": values.low, f"{length}high": values.high, f"{length}mean": values.mean}


def _implausible(task: Task, values: Values) -> str | None:
    if not values.files:
        return None
    where = f"in {values.files} file{'s' if values.files > 1 else ''}"
    if not values.labelled:
        # Few images of a data set have people, say; none of many is another matter.
        if task.foreground_only and values.files < _MANY:
            return None
        return f"{task.name}: no pixel has a label {where}"
    if is_class_map(task):
        (present,) = values.classes.nonzero()
        if len(present) == 1 and values.files >= _SOME:
            name = f" ({task.classes[present[0]]})" if task.classes else ""
            return f"{task.name}: all labelled pixels {where} are class {present[0]}{name}"
    elif task.activation == "unit" and values.off_unit > values.labelled / 10:
        return (
            f"{task.name}: {values.off_unit / values.labelled:.0%} of the vectors {where} do not have length 1 "
            f"(the mean is {values.mean:.2f}); are these files of something else?"
        )
    elif task.activation == "sigmoid" and values.high < 0.5:
        return (
            f"{task.name}: the largest value {where} is {values.high:.2g}, but boundaries are 1; are these files of "
            "something else?"
        )
    elif task.unit == "m" and values.mean > 100:
        return f"{task.name}: the mean {where} is {values.mean:.0f} m; are the values millimetres?"
    return None
