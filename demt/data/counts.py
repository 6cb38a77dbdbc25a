"""How much of each task a data set has labels of, for a run to say before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from demt.data.dataset import as_multitask
from demt.data.files import DataError
from demt.data.tv_tensors import IGNORE


@dataclass(frozen=True)
class TaskSummary:
    """What a data set has of one task.

    Attributes:
        images: Images that have a file of labels.
        total: All images.
        labelled: Share of the pixels that have a label in those of these images that were opened; None if none was.
    """

    images: int
    total: int
    labelled: float | None

    def __str__(self) -> str:
        share = "" if self.labelled is None else f", {self.labelled:.1%} of their pixels"
        return f"{self.images} of {self.total} images{share}"


def summary(dataset: Dataset[Any], *, sample: int = 8) -> dict[str, TaskSummary]:
    """How many images have labels of each task, and which share of their pixels.

    Files are counted without opening them; pixels are counted in a few images, evenly spread. Samples that cannot be
    read are skipped.

    Args:
        dataset: A `MultiTaskDataset`, or a ``torch.utils.data.Subset`` of one.
        sample: Number of images to open for each task.

    Raises:
        ValueError: for another data set.

    Example:
        >>> from demt.data import SyntheticRooms
        >>> print(summary(SyntheticRooms(size=(24, 32), length=2), sample=1)["depth"])
        2 of 2 images, 100.0% of their pixels
    """
    whole = as_multitask(dataset)
    having: dict[str, list[int]] = {task: [] for task in whole.tasks}
    for index in range(len(whole)):
        for task in whole.labels_of(index):
            having[task].append(index)
    chosen = {task: found[:: -(-len(found) // sample)] if found else [] for task, found in having.items()}
    pixels, labelled = dict.fromkeys(having, 0), dict.fromkeys(having, 0)
    for index in sorted({index for found in chosen.values() for index in found}):
        try:
            read = whole.read(index)
        except (DataError, ImportError):
            continue
        for task in having:
            if task in read:
                valid = (read[task] != IGNORE).all(0)
                pixels[task] += valid.numel()
                labelled[task] += int(valid.sum())
    return {
        task: TaskSummary(len(found), len(whole), labelled[task] / pixels[task] if pixels[task] else None)
        for task, found in having.items()
    }
