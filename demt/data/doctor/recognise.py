"""What a folder holds: a published data set, also when some of it is missing, or own data, by what its files show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from demt.data.files import ARRAYS, PICTURES, DataError, read_array
from demt.data.folder import by_name, match_names
from demt.data.layout import Layout
from demt.data.published_layouts import LAYOUTS
from demt.tasks import BUILTIN, Task, is_class_map

T = TypeVar("T")

#: Samples of each split that are looked for.
_SAMPLES = 16
#: Files of own tasks that are looked at, and how many different values class ids have at most.
_FILES, _CLASSES = 8, 64


class Fit(NamedTuple):
    """How well a folder fits a layout: the share of its files that are there, of some samples."""

    share: float
    dataset: str
    layout: Layout


def find_layouts(root: Path, *, dataset: str | None = None, tasks: Sequence[str] | None = None) -> list[Fit]:
    """The layouts that a folder may have, best first; those of which less than a quarter is there are left out.

    Args:
        root: Folder of the data set.
        dataset: ``"nyud"``, ``"pascal"`` or ``"cityscapes"``; by default all are tried.
        tasks: Tasks whose files count; by default all.
    """
    fits = [
        Fit(_share(layout, root, tasks), name, layout)
        for name, layouts in LAYOUTS.items()
        for layout in layouts
        if dataset in (None, name)
    ]
    return sorted((fit for fit in fits if fit.share >= 0.25), key=lambda fit: -fit.share)


def _share(layout: Layout, root: Path, tasks: Sequence[str] | None) -> float:
    kinds = [task for task in layout.labels if tasks is None or task in tasks]
    there = dict.fromkeys(("image", *kinds), 0)
    count, listed = 0, False
    for split in layout.splits:
        try:
            ids = layout.read_ids(root, split)
            listed = True
        except DataError:
            ids = layout.found_ids(root, split)
        for id in spread(ids, _SAMPLES):
            count += 1
            there["image"] += layout.image_path(root, split, id).exists()
            for task in kinds:
                there[task] += layout.label_path(root, split, id, task).exists()
    # Without a list, folders of images, depth and normals may belong to any data set.
    if not count or (not listed and not there.get("semseg")):
        return 0.0
    return sum(there.values()) / count / len(there)


def spread(items: Sequence[T], count: int | None) -> list[T]:
    """At most `count` of the items, evenly spread."""
    if count is None or count >= len(items):
        return list(items)
    return [items[k * len(items) // count] for k in range(count)]


class Proposal(NamedTuple):
    """What own data might be: for people to confirm, never taken for granted.

    Args:
        tasks: As `demt.data.declare.parse_tasks` reads them.
        encodings: As `MultiTaskFolder` reads them; "" where none is needed.
        questions: What files show that no encoding by name reads.
    """

    tasks: str
    encodings: str
    questions: list[str]

    def command(self, root: Path) -> str:
        """The command that checks the folder so."""
        return f"demt data check {root} --tasks {self.tasks}" + (
            f" --encodings {self.encodings}" if self.encodings else ""
        )

    def recipe(self, root: Path) -> str:
        """The line of a recipe that trains on the folder so."""
        encodings = f", encodings: '{self.encodings}'" if self.encodings else ""
        return f"data: {{dataset: folder, root: {root}, tasks: '{self.tasks}'{encodings}}}"


def propose(root: Path, images: str = "images") -> Proposal | None:
    """Tasks and encodings that fit the folders beside the images, by their names and some of their files.

    Folders with the names of built-in tasks are these; others are own tasks if they have labels of the images.
    """
    try:
        pictured = by_name(root / images, (*PICTURES, ".npy"))
    except DataError:
        return None
    tasks, encodings, questions = [], [], []
    inside = {path.name for path in root.iterdir() if path.is_dir() and path.name.isidentifier()} - {images}
    for name in [*(task for task in BUILTIN if task in inside), *sorted(inside - set(BUILTIN))]:
        try:
            files = by_name(root / name, PICTURES + ARRAYS)
        except DataError:
            continue
        if name not in BUILTIN and not match_names(files, pictured)[0]:
            continue
        kind, channels, encoding, question = _judge(
            name, [root / name / file for file in spread(list(files.values()), _FILES)]
        )
        if name in BUILTIN:
            task = BUILTIN[name]
            tasks.append(f"{name}={channels}" if task.activation == "argmax" else name)
        else:
            tasks.append(f"{name}={channels}:{kind}")
        encodings += [f"{name}={encoding}"] if encoding else []
        questions += [f"{name}: {question}"] if question else []
    return Proposal(",".join(tasks), ",".join(encodings), questions) if tasks else None


def _judge(name: str, paths: list[Path]) -> tuple[str, int, str | None, str | None]:
    """Kind, channels and encoding that some files of a task suggest, and what is left to ask."""
    seen: list[NDArray[Any]] = []
    pictures = False
    for path in paths:
        try:
            seen.append(read_array(path))
            pictures |= path.suffix.lower() in PICTURES
        except (DataError, ImportError):
            continue
    wanted = _kind_of(BUILTIN[name]) if name in BUILTIN else None
    if not seen:
        return wanted or "values", BUILTIN[name].channels if name in BUILTIN else 1, None, "no file can be read"
    values = np.unique(np.concatenate([array.reshape(-1) for array in seen]))
    first = seen[0]
    if first.ndim == 3:
        vectors = first.reshape(-1, first.shape[2]).astype(np.float32)
        vectors = vectors / 127.5 - 1 if first.dtype == np.uint8 else vectors
        unit = np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.1
        if wanted == "normals" or (first.shape[2] == 3 and unit.mean() > 0.5 and wanted is None):
            return "normals", 3, "rgb_normals" if pictures else None, None
        if pictures and wanted in (None, "classes"):
            colors = len(np.unique(first.reshape(-1, first.shape[2]), axis=0))
            return (
                "classes",
                max(colors, 2),
                None,
                f"colours ({colors} in one file): declare Encoding(colors=...) in Python",
            )
        return "values", first.shape[2], "values" if pictures else None, None
    whole = first.dtype.kind in "bui" or bool((values == np.round(values)).all())
    if wanted == "boundary":
        # 0, 1 and 255 mark boundaries and what is not known; 0 and 255 alone are black and white.
        marks = values[values != 255].max(initial=0) <= 1 and (1 in values or 255 not in values)
        return "boundary", 1, ("values" if marks else "grey") if pictures else None, None
    if wanted == "values":
        metres = "millimetres" if first.dtype.itemsize == 2 else "metres"
        ask = "8 bits are unusual for depth; declare an Encoding" if pictures and first.dtype == np.uint8 else None
        return "values", 1, metres if pictures else None, ask
    grey = whole and set(values.tolist()) <= {0, 255}
    if grey and (255 in values if name != "sal" else pictures) and wanted in (None, "classes"):
        return "classes", 2, "mask", None
    known = values[(values != 255) & (values >= 0)]
    if wanted == "classes" or (whole and first.dtype.itemsize == 1 and len(known) <= _CLASSES):
        count = max(int(known.max(initial=0)) + 1, 2)
        # Other files of two classes may hold 0 and 255 alone.
        return "classes", count, "classes" if pictures and count == 2 and 255 in values else None, None
    return "values", 1, ("grey" if first.dtype == np.uint8 else "values") if pictures else None, None


def _kind_of(task: Task) -> str:
    if is_class_map(task):
        return "classes"
    return {"sigmoid": "boundary", "unit": "normals"}.get(task.activation, "values")
