"""From one layout of a data set to another; what that loses is measured on every file."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from demt.data.doctor.check import layout_of
from demt.data.encoding import Encoding
from demt.data.files import DataError, MissingFileError
from demt.data.images import read_pixels
from demt.data.layout import Layout
from demt.data.published import READERS, PublishedDataset
from demt.data.published_layouts import get_layout
from demt.data.tv_tensors import IGNORE, Label
from demt.files import new_folder
from demt.tasks import Task, is_class_map

#: Shows progress: takes samples and their number, and gives the samples.
Show = Callable[[Iterable[int], int], Iterable[int]]


@dataclasses.dataclass
class Change:
    """What became of the files of one task, or of the images.

    Attributes:
        copied: Files that are the same bytes.
        written: Files that were rewritten.
        largest: Largest difference of a value from what the reader gave before: levels of 255 of images, else the
            task's unit; 0 if nothing was lost.
        mean: Mean difference over all values of the files that were rewritten.
    """

    copied: int = 0
    written: int = 0
    largest: float = 0.0
    mean: float = 0.0

    def add(self, difference: NDArray[Any]) -> None:
        """Take in the differences of one file's values."""
        self.written += 1
        self.largest = max(self.largest, float(difference.max()))
        self.mean += (float(difference.mean()) - self.mean) / self.written


def convert(
    root: str | PathLike[str],
    target: str | PathLike[str],
    layout: str,
    *,
    dataset: str | None = None,
    source: str = "auto",
    tasks: Sequence[str] | None = None,
    show: Show | None = None,
) -> dict[str, Change]:
    """Write a data set in another of its layouts, into a new folder, which appears when all of it is written.

    Files that both layouts have in the same form are copied. Others are rewritten, read again with the reader, and
    compared with what the reader gave before. Images keep their size.

    Args:
        root: Folder of the data set; all splits that are there are converted.
        target: A folder that does not exist yet, or is empty.
        layout: Layout to write; see `demt.data.published_layouts`.
        dataset: ``"nyud"``, ``"pascal"`` or ``"cityscapes"``; by default detected from the files.
        source: Layout of the folder, by default detected from the files.
        tasks: Tasks to convert; by default all.
        show: Shows progress.

    Returns:
        What was copied and what changed, for ``"image"`` and each task.

    Raises:
        DataError: naming a file that is missing or broken, or cannot be written in that layout.
        ValueError: if the layouts hold different labels, or the target lies in the data set.
        FileExistsError: if the target exists and is not empty.
        ImportError: if MATLAB files are to be written and SciPy is missing.
    """
    root, target = Path(root), Path(target)
    if not root.is_dir():
        raise MissingFileError(f"{str(root)!r} is no folder" if root.exists() else f"No folder {str(root)!r}")
    if target.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"Expected a target outside the data set, got {str(target)!r}")
    name, old, _ = layout_of(root, dataset, source, tasks)
    new = get_layout(name, layout)
    _check(name, old, new)
    datasets = {}
    for split in old.splits:
        if old.ids is None or (root / old.ids.format(split=split)).exists():
            datasets[split] = READERS[name](root, split, tasks=tasks, layout=old.name)
    if not datasets:
        raise MissingFileError(f"{str(root)!r} has no list of a split, such as {old.ids!r}")
    chosen = next(iter(datasets.values())).tasks
    for split, reader in datasets.items():
        if outside := [id for id in reader.ids if ".." in Path(id).parts or Path(id).is_absolute()]:
            raise DataError(f"The list of {split!r} holds {outside[0]!r}, which leads out of the data set")
    changes = {name: Change() for name in ("image", *chosen)}
    places = [(split, index) for split, dataset in datasets.items() for index in range(len(dataset))]
    with new_folder(target) as folder:
        for place in show(range(len(places)), len(places)) if show else range(len(places)):
            split, index = places[place]
            _convert_sample(datasets[split], index, new, folder, changes)
        for split, reader in datasets.items():
            if new.ids is not None:
                path = folder / new.ids.format(split=split)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{id}\n" for id in reader.ids), encoding="utf-8")
    return changes


def _check(dataset: str, old: Layout, new: Layout) -> None:
    if new.name == old.name:
        raise ValueError(f"The data set has the layout {new.name!r} already")
    for name, task in old.tasks.items():
        other = new.tasks[name]
        if (task.channels, task.unit) != (other.channels, other.unit):
            own, its = (f"{t.channels} channels (unit {t.unit or 'none'})" for t in (task, other))
            raise ValueError(
                f"{dataset} {old.name!r} cannot become {new.name!r}: its {name} has {own}, "
                f"that of {new.name!r} has {its}"
            )


def _convert_sample(
    dataset: PublishedDataset, index: int, new: Layout, folder: Path, changes: dict[str, Change]
) -> None:
    old, split, id = dataset.layout, dataset.split, dataset.ids[index]
    files, sample = dataset.files(index), dataset.read(index)
    for name, path in files.items():
        if name == "image":
            to, same = new.image_path(folder, split, id), Path(new.image).suffix == Path(old.image).suffix
        else:
            to = new.label_path(folder, split, id, name)
            same = to.suffix == path.suffix and old.labels[name].encoding == new.labels[name].encoding
        to.parent.mkdir(parents=True, exist_ok=True)
        if same:
            shutil.copyfile(path, to)
            changes[name].copied += 1
            continue
        before = sample[name].as_subclass(torch.Tensor).numpy()
        if name == "image":
            to.write_bytes(encode_file(before.transpose(1, 2, 0), to.suffix))
            after: NDArray[Any] = read_pixels(to).transpose(2, 0, 1)
        else:
            encoding, task = new.labels[name].encoding, new.tasks[name]
            to.write_bytes(encode_file(stored_values(sample[name], encoding, task, to.suffix), to.suffix, encoding.key))
            after = new.read_label(folder, split, id, name).as_subclass(torch.Tensor).numpy()
            if not np.array_equal(before == IGNORE, after == IGNORE):
                raise DataError(
                    f"{str(path)!r} has pixels without a label, which {to.suffix} files of {new.name!r} cannot mark"
                )
        changes[name].add(np.abs(after.astype(np.float64) - before))


def stored_values(label: Label, encoding: Encoding, task: Task, suffix: str) -> NDArray[Any]:
    """What stands in a file, (H, W) or (H, W, C), for a label map (C, H, W): the reverse of `Encoding.decode`."""
    maps: NDArray[Any] = label.as_subclass(torch.Tensor).numpy()
    void = (maps == IGNORE).all(0)
    values = np.where(void, 0, (maps.astype(np.float64) - encoding.offset) * encoding.divisor)
    if encoding.invalid:
        values = np.where(void, encoding.invalid[0], values)
    elif is_class_map(task):
        values = np.where(void, IGNORE, values)
    values = values[0] if len(values) == 1 else values.transpose(1, 2, 0)
    whole = suffix not in (".npy", ".mat") or is_class_map(task)
    return values.round().astype(np.uint8) if whole else values.astype(np.float32)


def encode_file(values: NDArray[Any], suffix: str, key: str | None = None) -> bytes:
    """Contents of a .png, .jpg, .npy or .mat file of these values. Raises `ImportError` if SciPy is missing."""
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, values, allow_pickle=False)
    elif suffix == ".mat":
        try:
            from scipy.io import savemat
        except ImportError:
            raise ImportError("Writing .mat files needs SciPy: pip install 'demt[data]'") from None
        savemat(buffer, {key or "values": values}, do_compression=True)
    else:
        lossy: dict[str, Any] = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
        Image.fromarray(np.ascontiguousarray(values)).save(buffer, "JPEG" if lossy else "PNG", **lossy)
    return buffer.getvalue()
