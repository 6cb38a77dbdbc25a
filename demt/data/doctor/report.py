"""What a check of a data set found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from demt.data.dataset import FileDataset
from demt.data.doctor.values import Values
from demt.labels import is_class_map
from demt.tasks import Task

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
        notes: What is worth knowing, but no fault.
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
    elif task.activation == "unit" and values.off_unit > values.labelled / 2:
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
