"""Which data set lies in a folder, also when some of it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from demt.data.files import DataError
from demt.data.layout import Layout
from demt.data.published_layouts import LAYOUTS

T = TypeVar("T")

#: Samples of each split that are looked for.
_SAMPLES = 16


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
    # Without a list, folders of images, depth and normals may be anybody's.
    if not count or (not listed and not there.get("semseg")):
        return 0.0
    return sum(there.values()) / count / len(there)


def spread(items: Sequence[T], count: int | None) -> list[T]:
    """At most `count` of the items, evenly spread."""
    if count is None or count >= len(items):
        return list(items)
    return [items[k * len(items) // count] for k in range(count)]
