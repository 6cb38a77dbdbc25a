"""Own data: folders of one task each, or an index."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from demt.data.dataset import FileDataset, OnError, Transform
from demt.data.declare import own_encodings, own_tasks, read_declared
from demt.data.encoding import Encoding
from demt.data.files import ARRAYS, PICTURES, DataError, MissingFileError, is_hidden, read_bytes
from demt.data.layout import read_id_list
from demt.data.tv_tensors import Label
from demt.tasks import TaskSpec


class MultiTaskFolder(FileDataset):
    """Own images and labels, with any tasks, of which any image may lack any.

    Without an index, images lie in ``root/images`` and labels in ``root/<task>``, under the same names but for the
    ending; folders below these are part of the name. With an index, a CSV file with a heading or a file of one JSON
    object a line, each row names an ``image`` and a file for each task, relative to `root`; empty or missing entries
    are unlabelled. An optional ``id`` names the row.

    Args:
        root: Folder of the data.
        tasks: As for `demt.create_model`: a mapping from task name to channels or `Task`; or a text as on the command
            line, ``"semseg=5,depth"`` (see `parse_tasks`).
        encodings: How files of a task encode labels, by task: an `Encoding` or a name of
            `demt.data.encoding.ENCODINGS`, such as ``"millimetres"``; or a text, ``"depth=millimetres"``. Class ids,
            and arrays of metres, unit normals or other values as they are, need none.
        in_chans: Channels of the images: 3, 1 (colour becomes grey), 4 (pictures with an alpha channel), or as many as
            all ``.npy`` images have; see `demt.data.images.read_pixels`. By default pictures have 3 and arrays those
            they have.
        index: Path of a ``.csv`` or ``.jsonl`` file, relative to `root` or absolute.
        ids: Which samples to take, in this order: names, or the path of a text file with one name per line.
        images: Folder of the images, without an index.
        transform: See `MultiTaskDataset`.
        on_error: See there.

    Raises:
        ValueError: for tasks or encodings that do not fit together.
        DataError: if folders, files or columns are missing, or two files claim one label.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        tasks: TaskSpec | str,
        *,
        encodings: Mapping[str, str | Encoding] | str | None = None,
        in_chans: int | None = None,
        index: str | PathLike[str] | None = None,
        ids: Sequence[str] | str | PathLike[str] | None = None,
        images: str = "images",
        transform: Transform | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if in_chans is not None and (isinstance(in_chans, bool) or not isinstance(in_chans, int) or in_chans < 1):
            raise ValueError(f"Expected `in_chans` to be a whole number >= 1, or None, got {in_chans!r}")
        self.root, self.in_chans = Path(root), in_chans
        resolved = own_tasks(tasks)
        self._encodings = own_encodings(resolved, encodings)
        if not self.root.is_dir():
            raise MissingFileError(f"No folder {str(self.root)!r}")
        self.images = images if index is None else None
        if index is None:
            rows = _rows_of_folders(self.root, images, list(resolved))
        else:
            rows = _rows_of_index(self.root / index, list(resolved))
        if ids is not None:
            rows = _choose(rows, read_id_list(self.root / ids) if isinstance(ids, (str, PathLike)) else ids)
        self._rows = list(rows.values())
        super().__init__(list(rows), resolved, transform=transform, on_error=on_error)

    def files(self, index: int) -> dict[str, Path]:
        """The files of the sample at `index`: ``"image"``, and one of each task that it has labels of."""
        row = self._rows[index]
        return {name: self.root / row[name] for name in ("image", *self.tasks) if name in row}

    def read_label(self, index: int, task: str) -> Label:
        """The label map (C, H, W) of one task, before the transform. Raises `DataError`."""
        return read_declared(self.files(index)[task], self.tasks[task], self._encodings[task])


Row = dict[str, str]


def _rows_of_folders(root: Path, images: str, tasks: list[str]) -> dict[str, Row]:
    found = by_name(root / images, (*PICTURES, ".npy"))
    rows = {name: {"image": f"{images}/{file}"} for name, file in sorted(found.items())}
    for task in tasks:
        labels = by_name(root / task, PICTURES + ARRAYS)
        images_of, strays = match_names(labels, rows)
        if not images_of:
            raise DataError(
                f"No file in {str(root / task)!r} has the name of an image in {str(root / images)!r}, e.g. "
                f"{next(iter(rows))!r}; it has {next(iter(labels.values()))!r}"
            )
        if strays:
            warnings.warn(
                f"{len(strays)} of {len(labels)} files in {str(root / task)!r} have the name of no image in "
                f"{str(root / images)!r} and are left out, e.g. {labels[strays[0]]!r}",
                RuntimeWarning,
                stacklevel=4,
            )
        for name, image in images_of.items():
            rows[image][task] = f"{task}/{labels[name]}"
    return rows


def match_names(labels: Iterable[str], images: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The image that each label belongs to, and the labels that belong to none.

    Names are equal, or differ in Unicode's form (macOS takes accents apart) or in capitals alone, if that leaves no
    choice.
    """
    names, folded = set(images), defaultdict(list)
    for name in names:
        folded[_folded(name)].append(name)
    labels = list(labels)
    found: dict[str, str] = {name: name for name in labels if name in names}
    taken, strays = set(found), []
    for name in labels:
        alike = folded[_folded(name)]
        if name not in names and len(alike) == 1 and alike[0] not in taken:
            found[name] = alike[0]
            taken.add(alike[0])
        elif name not in names:
            strays.append(name)
    return found, strays


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def by_name(folder: Path, endings: tuple[str, ...]) -> dict[str, str]:
    """Files below a folder, by their names without the ending. Raises `DataError` if two have one name."""
    if not folder.is_dir():
        raise MissingFileError(f"No folder {str(folder)!r}")
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in endings or is_hidden(inside):
            continue
        name = inside.with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{str(folder)!r} has two files for {name!r}: {found[name]!r} and {path.name!r}")
        found[name] = inside.as_posix()
    if not found:
        raise MissingFileError(f"No files in {str(folder)!r} with one of the endings {endings}")
    return found


def _rows_of_index(path: Path, tasks: list[str]) -> dict[str, Row]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
        if path.suffix == ".csv":
            records: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text), restkey=""))
        elif path.suffix == ".jsonl":
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            raise ValueError(f"expected a .csv or .jsonl file, got {path.suffix!r}")
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{str(path)!r} is not an index: {error}") from error
    if not records or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{str(path)!r} is not an index: expected rows with a name for each value")
    # A task that no row has is more likely a misspelt column than a task without labels.
    columns = {name for record in records for name in record}
    if absent := [name for name in ("image", *tasks) if name not in columns]:
        raise DataError(f"{str(path)!r} lacks {absent}; it has {sorted(columns)}")
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, 1):
        row = {name: record[name] for name in ("image", *tasks) if record.get(name)}
        if "image" not in row or not all(isinstance(file, str) for file in row.values()) or "" in record:
            raise DataError(f"{str(path)!r}, row {number}: expected an 'image' and paths of labels, got {record}")
        id = str(record.get("id") or Path(row["image"]).with_suffix("").as_posix())
        if id in rows:
            raise DataError(f"{str(path)!r}, row {number}: a second row for {id!r}")
        rows[id] = row
    return rows


def _choose(rows: dict[str, Row], ids: Sequence[str]) -> dict[str, Row]:
    if wrong := [id for id in ids if not isinstance(id, str)]:
        raise DataError(f"Expected `ids` to be names, got {wrong[0]!r}")
    if twice := [id for id, count in Counter(ids).items() if count > 1]:
        raise DataError(f"`ids` names {twice[0]!r} more than once")
    found, unknown = match_names(ids, rows)
    if unknown:
        raise DataError(
            f"`ids` names {len(unknown)} unknown samples, e.g. {unknown[0]!r}; known is {next(iter(rows))!r}"
        )
    return {found[id]: rows[found[id]] for id in ids}
