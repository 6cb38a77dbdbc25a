"""What all data sets share: samples, transforms, errors that are raised or skipped, batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset
from torchvision import tv_tensors

from demt.data.batch import Sample, collate
from demt.data.files import DataError, orientation
from demt.data.images import read_pixels
from demt.data.tv_tensors import Label
from demt.tasks import Task

OnError = Literal["raise", "skip"]
Transform = Callable[[Sample], Sample]


class MultiTaskDataset(Dataset[Sample]):
    """Base of the data sets: subclasses say in `read` what a sample is.

    A sample is a dictionary: ``"image"``, an `Image` (C, H, W) of uint8, C being 3 unless the set says otherwise; a
    label map of each task that the sample has labels for (`demt.data.tv_tensors`), under the task's name; ``"id"``.
    Files are opened when a sample is asked for, never written.

    Args:
        ids: Name of each sample.
        tasks: Tasks of the set.
        transform: Takes and returns a sample, e.g. transforms of ``torchvision.transforms.v2``.
        on_error: What a broken sample does: ``"raise"`` a `DataError`, or ``"skip"``: warn, count it in `skipped`, and
            give the next sample that is whole in its place, always the same one.

    Attributes:
        skipped: Why samples were skipped, by id; each worker process has its own.
        mixed: Whether samples have transforms of their own, as in a `demt.data.Mixture`.

    Raises:
        ValueError: for an unknown `on_error`, no ids, or a task named "image" or "id".
    """

    mixed = False

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
            raise ValueError(f"Tasks cannot have the names {taken}, which samples use; choose others")
        self.ids = list(ids)
        self.tasks = dict(tasks)
        self.transform = transform
        self.on_error = on_error
        self.skipped: dict[str, str] = {}

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform. Raises `DataError`."""
        raise NotImplementedError

    def labels_of(self, index: int) -> list[str]:
        """The tasks that the sample at `index` should have labels of; nothing is opened."""
        return list(self.tasks)

    def collate(self, samples: Sequence[Sample]) -> Sample:
        """`demt.data.collate` with the tasks of this set: give it to ``DataLoader(collate_fn=...)``."""
        return collate(samples, self.tasks)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"No sample {index} in a data set of {len(self)}")
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
    """Base of the data sets whose images and labels can be read one by one.

    Subclasses say in `files` and `read_label` where and what labels are.
    """

    #: Channels of the images: see `demt.data.images.read_pixels`.
    in_chans: int | None = 3

    def files(self, index: int) -> dict[str, Path]:
        """The files of the sample at `index`, there or not: ``"image"``, and one of each task that it has labels of."""
        raise NotImplementedError

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """The image (H, W, C) of the sample at `index`. Raises `DataError`."""
        return read_pixels(self.files(index)["image"], self.in_chans)

    def read_label(self, index: int, task: str) -> Label:
        """The label map (C, H, W) of one task, before the transform. Raises `DataError`."""
        raise NotImplementedError

    def labels_of(self, index: int) -> list[str]:
        """The tasks of which the sample at `index` has a file; nothing is opened."""
        return [task for task, path in self.files(index).items() if task != "image" and path.exists()]

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform. Raises `DataError`."""
        files = self.files(index)
        pixels = torch.from_numpy(self.read_image(index)).permute(2, 0, 1).contiguous()
        sample: Sample = {"image": tv_tensors.Image(pixels)}
        for task, path in files.items():
            if task != "image":
                sample[task] = self.read_label(index, task)
                if sample[task].shape[-2:] != pixels.shape[-2:]:
                    raise DataError(other_size(path, sample[task].shape[-2:], files["image"], pixels.shape[-2:]))
        return {**sample, "id": self.ids[index]}


class MultiTaskSubset(MultiTaskDataset):
    """A part of a data set, with all that training asks of one: what `as_multitask` makes of a ``Subset``.

    Args:
        dataset: The data set; its transform and `on_error` hold here, too.
        indices: Numbers of its samples.
    """

    def __init__(self, dataset: MultiTaskDataset, indices: Sequence[int]) -> None:
        if dataset.mixed:
            raise ValueError(
                "The sources of a mixture have their own transforms: take parts of the sources, and mix those"
            )
        self.dataset, self.indices = dataset, [int(index) for index in indices]
        ids = [dataset.ids[index] for index in self.indices]
        super().__init__(ids, dataset.tasks, transform=dataset.transform, on_error=dataset.on_error)

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform. Raises `DataError`."""
        return self.dataset.read(self.indices[index])

    def labels_of(self, index: int) -> list[str]:
        """See `MultiTaskDataset.labels_of`."""
        return self.dataset.labels_of(self.indices[index])


def as_multitask(dataset: Dataset[Any]) -> MultiTaskDataset:
    """A `MultiTaskDataset` as it is, and a ``torch.utils.data.Subset`` of one (as ``random_split`` gives) as one.

    Raises:
        ValueError: for any other data set.
    """
    if isinstance(dataset, MultiTaskDataset):
        return dataset
    if isinstance(dataset, Subset):
        return MultiTaskSubset(as_multitask(dataset.dataset), dataset.indices)
    raise ValueError(
        f"Expected a demt.data.MultiTaskDataset, or a torch.utils.data.Subset of one, got {type(dataset).__name__}"
    )


def other_size(path: Path, size: Sequence[int], image: Path, expected: Sequence[int]) -> str:
    """What to say of a label that is not as large as its image."""
    turned = orientation(image) > 4 or orientation(path) > 4
    hint = "; one of them is turned by its EXIF orientation tag, the other is not" if turned else ""
    return (
        f"{str(path)!r} is {size[0]} x {size[1]} (height x width), but its image {str(image)!r} is "
        f"{expected[0]} x {expected[1]}{hint}"
    )
