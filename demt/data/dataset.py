"""What all data sets share: samples, transforms, errors that are raised or skipped, batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from demt.data.batch import Sample, collate
from demt.data.files import DataError, read_rgb
from demt.data.tv_tensors import Label
from demt.tasks import Task

OnError = Literal["raise", "skip"]
Transform = Callable[[Sample], Sample]


class MultiTaskDataset(Dataset[Sample]):
    """Base of the data sets: subclasses say in `read` what a sample is.

    A sample is a dictionary: ``"image"``, an `Image` (3, H, W) of uint8; a label map of each task that the sample has
    labels for (`demt.data.tv_tensors`), under the task's name; ``"id"``. Files are opened when a sample is asked for,
    never written.

    Args:
        ids: Name of each sample.
        tasks: Tasks of the set.
        transform: Takes and returns a sample, e.g. transforms of ``torchvision.transforms.v2``.
        on_error: What a broken sample does: ``"raise"`` a `DataError`, or ``"skip"``: warn, count it in `skipped`, and
            give the next sample that is whole in its place, always the same one.

    Attributes:
        skipped: Why samples were skipped, by id; each worker process has its own.

    Raises:
        ValueError: for an unknown `on_error`, no ids, or a task named "image" or "id".
    """

    def __init__(
        self,
        ids: Sequence[str],
        tasks: dict[str, Task],
        *,
        transform: Transform | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if on_error not in get_args(OnError):
            raise ValueError(f"Expected `on_error` to be one of {get_args(OnError)}, got {on_error!r}")
        if transform is not None and not callable(transform):
            raise ValueError(f"Expected `transform` to be callable, got {transform!r}")
        if not ids:
            raise ValueError("Expected at least one sample, got no ids")
        if taken := sorted({"image", "id"} & set(tasks)):
            raise ValueError(f"The names {taken} of tasks are taken in samples; choose others")
        self.ids = list(ids)
        self.tasks = dict(tasks)
        self.transform = transform
        self.on_error = on_error
        self.skipped: dict[str, str] = {}

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform. Raises `DataError`."""
        raise NotImplementedError

    def collate(self, samples: Sequence[Sample]) -> Sample:
        """`demt.data.collate` with the tasks of this set: give it to ``DataLoader(collate_fn=...)``."""
        return collate(samples, self.tasks)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Sample {index} of a data set of {len(self)}")
        sample = self._read_or_skip(index % len(self))
        return sample if self.transform is None else self.transform(sample)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, tasks {', '.join(self.tasks)})"

    def _read_or_skip(self, index: int) -> Sample:
        if self.on_error == "raise":
            return self.read(index)
        for step in range(len(self)):
            id = self.ids[(index + step) % len(self)]
            if id in self.skipped:
                continue
            try:
                return self.read((index + step) % len(self))
            except DataError as error:
                self.skipped[id] = str(error)
                warnings.warn(
                    f"Skipped sample {id!r} ({len(self.skipped)} so far), another takes its place: {error}",
                    RuntimeWarning,
                    stacklevel=3,
                )
        raise DataError(f"No sample of {len(self)} can be read; the first says: {self.skipped[self.ids[0]]}")


class FileDataset(MultiTaskDataset):
    """Base of the data sets that lie on disk: subclasses say in `files` and `read_label` where and what labels are."""

    def files(self, index: int) -> dict[str, Path]:
        """The files of the sample at `index`, there or not: ``"image"``, and one of each task that it has labels of."""
        raise NotImplementedError

    def read_label(self, index: int, task: str) -> Label:
        """The label map (C, H, W) of one task, before the transform. Raises `DataError`."""
        raise NotImplementedError

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform. Raises `DataError`."""
        files = self.files(index)
        labels = ((task, self.read_label(index, task), path) for task, path in files.items() if task != "image")
        return read_sample(files["image"], labels, self.ids[index])


def read_sample(image: Path, labels: Iterable[tuple[str, Label, Path]], id: str) -> Sample:
    """A sample of an image file and labels with the files they come from.

    Raises:
        DataError: naming the file that cannot be read, or both files where sizes differ.
    """
    pixels = torch.from_numpy(read_rgb(image)).permute(2, 0, 1).contiguous()
    sample: Sample = {"image": tv_tensors.Image(pixels)}
    for task, label, path in labels:
        if label.shape[-2:] != pixels.shape[-2:]:
            raise DataError(
                f"{str(path)!r} is {_size(label)} (height x width), but its image {str(image)!r} is {_size(pixels)}"
            )
        sample[task] = label
    return {**sample, "id": id}


def _size(values: Any) -> str:
    return f"{values.shape[-2]} x {values.shape[-1]}"
