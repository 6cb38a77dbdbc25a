"""Data sets of the Hugging Face Hub, Parquet files, and any ``datasets.Dataset``, by the names of their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from demt.data.batch import Sample
from demt.data.dataset import FileDataset, OnError, Transform
from demt.data.declare import own_encodings, own_tasks, read_declared
from demt.data.encoding import Encoding
from demt.data.files import DataError, MissingFileError, numeric
from demt.data.images import read_pixels
from demt.data.tv_tensors import Label
from demt.tasks import TaskSpec

_NEEDED = "Data sets of the Hub and Parquet files need datasets: pip install 'demt[hf]'"


class HubDataset(FileDataset):
    """Images and labels in the columns of a ``datasets.Dataset``: what `MultiTaskFolder` is to folders.

    A cell holds a picture (the feature ``Image``, or the bytes of a file), or numbers (``Array2D``, ``Array3D``,
    lists): (H, W), or (H, W, C) or (C, H, W), where C is the shorter of the first and the last axis. An empty cell is
    an image without labels of the task. Columns of other names are never read, and each cell is decoded once.

    Args:
        source: A ``datasets.Dataset``; a ``.parquet`` file, or a folder of such; or the name of a data set on the Hub,
            which is downloaded to the cache of ``datasets`` when it is first asked for.
        tasks: See `MultiTaskFolder`.
        split: Split of a file, a folder or a data set of the Hub, as ``datasets.load_dataset`` takes it:
            ``"train[:90%]"`` is a part.
        columns: Where the column of ``"image"``, of a task or of ``"id"`` (a name for each sample, by default its
            number) has another name than that: ``{"semseg": "segmentation"}``.
        encodings: See `MultiTaskFolder`.
        in_chans: See there.
        subset: Configuration of a data set of the Hub that has several.
        revision: Branch, tag or commit of a data set of the Hub.
        transform: See `MultiTaskDataset`.
        on_error: See there.

    Raises:
        ValueError: for tasks, columns or encodings that do not fit together.
        DataError: if the data set cannot be opened, lacks a column, or names two samples alike.
        ImportError: if ``datasets`` is not installed.
    """

    def __init__(
        self,
        source: Any,
        tasks: TaskSpec | str,
        *,
        split: str = "train",
        columns: Mapping[str, str] | None = None,
        encodings: Mapping[str, str | Encoding] | str | None = None,
        in_chans: int | None = None,
        subset: str | None = None,
        revision: str | None = None,
        transform: Transform | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if in_chans is not None and (isinstance(in_chans, bool) or not isinstance(in_chans, int) or in_chans < 1):
            raise ValueError(f"Expected `in_chans` to be a whole number >= 1, or None, got {in_chans!r}")
        resolved = own_tasks(tasks)
        self._encodings, self.in_chans = own_encodings(resolved, encodings), in_chans
        given = dict(columns or {})
        if unknown := sorted(set(given) - {"image", "id", *resolved}):
            raise ValueError(f"`columns` names {unknown}; expected 'image', 'id' or one of the tasks {list(resolved)}")
        dataset, self.name = _open(source, split, subset, revision)
        self.source = str(source) if isinstance(source, (str, PathLike)) else self.name
        self.columns = {name: given.get(name, name) for name in ("image", *resolved)}
        wanted = {**self.columns, **({"id": given["id"]} if "id" in given else {})}
        for name, column in wanted.items():
            if column not in dataset.column_names:
                what = {"image": "images", "id": "ids"}.get(name, f"task {name!r}")
                raise DataError(
                    f"{self.name} has no column {column!r} for {what}; it has {sorted(dataset.column_names)}: say "
                    f"which it is as columns={{{name!r}: ...}}"
                )
        if not len(dataset):
            raise DataError(f"{self.name} has no rows")
        ids = (
            [str(id) for id in dataset.with_format(None)[given["id"]]]
            if "id" in given
            else [str(row) for row in range(len(dataset))]
        )
        if len(set(ids)) < len(ids):
            (twice, _), *_ = Counter(ids).most_common(1)
            raise DataError(
                f"{self.name}: column {given['id']!r} has {twice!r} twice, but each id must name one sample"
            )
        # As Arrow hands them out, cells are what was stored: nothing decodes pictures before it is known what they are.
        self._rows = dataset.select_columns(sorted(set(self.columns.values()))).with_format("arrow")
        super().__init__(ids, resolved, transform=transform, on_error=on_error)

    def files(self, index: int) -> dict[str, Path]:
        """What errors call the cells of the sample at `index`: the image's, and those of the tasks that it has."""
        return {name: self._place(index, name) for name in ("image", *self.labels_of(index))}

    def labels_of(self, index: int) -> list[str]:
        """The tasks that the sample at `index` has labels of; nothing is decoded."""
        row = self._rows[index]
        return [task for task in self.tasks if not _is_empty(row.column(self.columns[task])[0])]

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """The image (H, W, C) of the sample at `index`. Raises `DataError`."""
        return self._image(self._rows[index], index)

    def read_label(self, index: int, task: str) -> Label:
        """The label map (C, H, W) of one task that the sample has. Raises `DataError`."""
        return self._label(self._rows[index], index, task)

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform. Raises `DataError`."""
        row = self._rows[index]
        pixels = torch.from_numpy(self._image(row, index)).permute(2, 0, 1).contiguous()
        sample: Sample = {"image": tv_tensors.Image(pixels)}
        for name in self.tasks:
            if _is_empty(row.column(self.columns[name])[0]):
                continue
            label = sample[name] = self._label(row, index, name)
            if label.shape[-2:] != pixels.shape[-2:]:
                raise DataError(
                    f"{str(self._place(index, name))!r} is {label.shape[-2]} x {label.shape[-1]} (height x width), but "
                    f"its image is {pixels.shape[-2]} x {pixels.shape[-1]}"
                )
        return {**sample, "id": self.ids[index]}

    def _place(self, index: int, name: str) -> Path:
        return Path(f"{self.name}, row {index}, column {self.columns[name]}")

    def _image(self, row: Any, index: int) -> NDArray[np.uint8]:
        cell, place = row.column(self.columns["image"])[0], self._place(index, "image")
        if _is_empty(cell):
            raise MissingFileError(f"{str(place)!r} holds no image")
        path, contents = _contents(cell, place)
        return read_pixels(path, self.in_chans, contents)

    def _label(self, row: Any, index: int, name: str) -> Label:
        path, contents = _contents(row.column(self.columns[name])[0], self._place(index, name))
        return read_declared(path, self.tasks[name], self._encodings[name], contents)


def is_parquet(source: str | PathLike[str]) -> bool:
    """Whether a path is a ``.parquet`` file, or a folder that has some, there or in the folders in it."""
    path = Path(source).expanduser()
    return path.suffix == ".parquet" or any(any(path.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet"))


def splits_of(source: str | PathLike[str], subset: str | None = None, revision: str | None = None) -> list[str]:
    """Names of the splits that `HubDataset` would find. Raises `DataError` or `ImportError`."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(_NEEDED) from error
    path = Path(source).expanduser()
    if path.suffix == ".parquet":
        return ["train"]
    try:
        if path.is_dir():
            return list(datasets.get_dataset_split_names("parquet", data_dir=str(path)))
        return list(datasets.get_dataset_split_names(str(source), subset, revision=revision))
    except Exception as error:
        raise DataError(f"{str(source)!r} cannot be opened as a data set: {_said(error)}") from error


def columns_of(source: str, split: str, subset: str | None = None, revision: str | None = None) -> list[str]:
    """Names of the columns of a file, a folder or a data set of the Hub. Raises `DataError` or `ImportError`."""
    return list(_open(source, split, subset, revision)[0].column_names)


def _open(source: Any, split: str, subset: str | None, revision: str | None) -> tuple[Any, str]:
    """A ``datasets.Dataset`` and what to call it in errors."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(_NEEDED) from error
    if isinstance(source, datasets.DatasetDict):
        if split not in source:
            raise DataError(f"The data set has no split {split!r}; it has {sorted(source)}")
        return source[split], f"Split {split!r} of the data set"
    if isinstance(source, datasets.Dataset):
        return source, "The data set"
    if not isinstance(source, (str, PathLike)):
        hint = "; load it with streaming=False" if isinstance(source, datasets.IterableDataset) else ""
        raise ValueError(
            f"Expected `source` to be a datasets.Dataset, a path of Parquet files or a name on the Hub, got "
            f"{type(source).__name__}{hint}"
        )
    path, name = Path(source).expanduser(), f"{str(source)!r} ({split})"
    try:
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=[str(path)], split=split), name
        if path.is_dir():
            if not any(path.rglob("*.parquet")):
                raise DataError(f"No .parquet files in {str(path)!r}")
            return datasets.load_dataset("parquet", data_dir=str(path), split=split), name
        return datasets.load_dataset(str(source), subset, split=split, revision=revision), name
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} cannot be opened as a data set: {_said(error)}") from error


def _said(error: Exception) -> str:
    """The message of an error: those of files, names, splits and connections come as a dozen types."""
    return " ".join(str(error.__cause__ or error).split()) or type(error).__name__


def _is_empty(cell: Any) -> bool:
    return not cell.is_valid or (_is_picture(cell) and not (cell["bytes"].is_valid or cell["path"].is_valid))


def _is_picture(cell: Any) -> bool:
    """Whether a cell is one of the feature ``Image``: the bytes of a file, or its path."""
    import pyarrow as pa

    return pa.types.is_struct(cell.type) and {field.name for field in cell.type} == {"bytes", "path"}


def _contents(cell: Any, where: Path) -> tuple[Path, bytes | NDArray[Any] | None]:
    """What a cell holds, and its name; a path alone where it names a file."""
    import pyarrow as pa

    if _is_picture(cell):
        held = cell.as_py()
        return (Path(held["path"]), None) if held["bytes"] is None else (where, held["bytes"])
    if pa.types.is_binary(cell.type) or pa.types.is_large_binary(cell.type):
        return where, cell.as_py()
    return where, _array(cell.value if isinstance(cell, pa.ExtensionScalar) else cell, where)


def _array(cell: Any, where: Path) -> NDArray[Any]:
    """Nested lists of equal lengths as an array (H, W) or (H, W, C), without a Python object for each number."""
    import pyarrow as pa

    def is_list(kind: Any) -> bool:
        return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

    if not is_list(cell.type):
        raise DataError(f"{str(where)!r}: expected a picture or an array, got {cell.type}")
    values = cell.values
    shape: list[int] = [len(cell)]
    while is_list(values.type):
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise DataError(
                f"{str(where)!r}: expected nested lists of equal length, as in an array, got {len(lengths)}"
            )
        shape.append(lengths.pop())
        values = values.flatten()
    array: NDArray[Any] = np.array(values.to_numpy(zero_copy_only=False)).reshape(tuple(shape))
    if array.ndim == 3 and array.shape[0] < array.shape[2]:
        array = np.ascontiguousarray(array.transpose(1, 2, 0))
    return numeric(array, where)
