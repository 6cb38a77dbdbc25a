"""What a data set's layout on disk is: where ids, images and labels are, and how labels are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from demt.data.encoding import Encoding
from demt.data.files import DataError, MissingFileError, is_hidden, read_bytes
from demt.data.tv_tensors import Label
from demt.tasks import Task

#: Computes a task's stored values from its file, and from `LabelFile.also`.
Derive = Callable[..., NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Where and how a task's labels are stored.

    Args:
        paths: Patterns with ``{id}`` and ``{split}``, below the data set's folder; the first file that exists counts.
        encoding: What its numbers mean.
        derive: Name of a function in `demt.data.pascal` that computes the stored values from the file; None where the
            file holds them.
        also: Pattern of a second file that `derive` reads.
    """

    paths: tuple[str, ...]
    encoding: Encoding
    derive: str | None = None
    also: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A data set as it lies on disk.

    Args:
        name: Name of the layout, for the `layout` argument of the readers.
        used_by: Whose code reads it.
        image: Pattern of the images, with ``{id}`` and ``{split}``.
        labels: Label files by task, in task order.
        tasks: Tasks by name.
        splits: Number of images of each split.
        ids: Pattern of the lists of ids; None where ids are those of the images that are there.
        size: Height and width of all images, if they have one size.
    """

    name: str
    used_by: str
    image: str
    labels: Mapping[str, LabelFile]
    tasks: Mapping[str, Task]
    splits: Mapping[str, int]
    ids: str | None = None
    size: tuple[int, int] | None = None

    def read_ids(self, root: Path, split: str) -> list[str]:
        """Ids of a split, in the order of its list, or sorted.

        Raises:
            ValueError: for an unknown split.
            DataError: if the list is missing or has an id twice, or no image is there.
        """
        if split not in self.splits:
            raise ValueError(f"Expected `split` to be one of {list(self.splits)}, got {split!r}")
        if self.ids is not None:
            return read_id_list(root / self.ids.format(split=split))
        found = self.found_ids(root, split)
        if not found:
            raise MissingFileError(f"No images {str(root / self.image.format(split=split, id='**'))!r}")
        return found

    def found_ids(self, root: Path, split: str, pattern: str | None = None) -> list[str]:
        """Ids of the files that are there, sorted: of the images, or of another pattern of this layout."""
        start, end = (pattern or self.image).replace("{split}", split).split("{id}")
        folder = root / start
        inside = [path.relative_to(folder) for path in folder.rglob(f"*{end}")]
        found = [path.as_posix()[: -len(end)] for path in inside if not is_hidden(path)]
        return sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (0, name))

    def image_path(self, root: Path, split: str, id: str) -> Path:
        """Where an image is."""
        return root / self.image.format(split=split, id=id)

    def label_path(self, root: Path, split: str, id: str, task: str) -> Path:
        """Where a label is: the first of its places that exists, else the last."""
        places = [root / pattern.format(split=split, id=id) for pattern in self.labels[task].paths]
        return next((place for place in places[:-1] if place.exists()), places[-1])

    def missing(self, root: Path, split: str, id: str, tasks: list[str]) -> list[Path]:
        """Files of one sample that are not there."""
        paths = [self.image_path(root, split, id), *(self.label_path(root, split, id, task) for task in tasks)]
        return [path for path in paths if not path.exists()]

    def read_label(
        self, root: Path, split: str, id: str, task: str, derive: Mapping[str, Derive] | None = None
    ) -> Label:
        """The label map of one task.

        Args:
            root: Folder of the data set.
            split: Split.
            id: Id of the sample.
            task: Task.
            derive: Functions for labels that are computed from files.

        Raises:
            DataError: naming the file that is missing, unreadable or wrong.
        """
        file, path = self.labels[task], self.label_path(root, split, id, task)
        if file.derive is None:
            return file.encoding.read(path, self.tasks[task])
        also = [root / file.also.format(split=split, id=id)] if file.also else []
        return file.encoding.decode((derive or {})[file.derive](path, *also), self.tasks[task], path)


def read_id_list(path: Path) -> list[str]:
    """Ids of a text file, one per line. Raises `DataError` if it is missing, is empty or has an id twice."""
    try:
        ids = [line.strip() for line in read_bytes(path).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not a list of ids: {error}") from None
    if not ids:
        raise DataError(f"{str(path)!r} lists no ids")
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise DataError(f"{str(path)!r} lists the id {id!r} twice")
        seen.add(id)
    return ids
