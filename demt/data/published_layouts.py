"""The layouts of the published data sets, as a table: folders, names, encodings, splits.

Facts only. Readers, converters and checks take them from here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demt.data.encoding import Encoding
from demt.data.files import DataError, MissingFileError
from demt.data.layout import LabelFile, Layout
from demt.protocols import CITYSCAPES_SIZES, PROTOCOLS
from demt.tasks import DATASETS

_NYUD_CLASSES = Encoding(offset=-1, invalid=(0,))
_NYUD_DEPTH = Encoding(invalid=(0,))
_RGB_NORMALS = Encoding(divisor=127.5, offset=-1, bits=8)


def _nyud(name: str, used_by: str, image: str, *, size: tuple[int, int] | None, **files: LabelFile) -> Layout:
    return Layout(
        name=name,
        used_by=used_by,
        image=image,
        labels={task: files[task] for task in DATASETS["nyud"]},
        tasks=DATASETS["nyud"],
        splits={"train": 795, "val": 654},
        ids="gt_sets/{split}.txt",
        size=size,
    )


def _file(path: str, encoding: Encoding, **further: Any) -> LabelFile:
    return LabelFile(paths=(path,), encoding=encoding, **further)


_NYUD = (
    _nyud(
        "atrc",
        "ATRC, DeMT, InvPT, TaskPrompter, MTMamba",
        "images/{id}.png",
        size=PROTOCOLS["atrc"].nyud.size,
        semseg=_file("segmentation/{id}.png", _NYUD_CLASSES),
        depth=_file("depth/{id}.npy", _NYUD_DEPTH),
        normals=_file("normals/{id}.png", _RGB_NORMALS),
        edge=_file("edge/{id}.png", Encoding(divisor=255, bits=8)),
    ),
    _nyud(
        "vandenhende",
        "MTI-Net, the survey of Vandenhende et al.",
        "images/{id}.jpg",
        size=None,
        semseg=_file("segmentation/{id}.png", _NYUD_CLASSES),
        depth=_file("depth/{id}.npy", _NYUD_DEPTH),
        normals=_file("normals/{id}.npy", Encoding()),
        edge=_file("edge/{id}.npy", Encoding()),
    ),
    _nyud(
        "astmt",
        "ASTMT",
        "images/{id}.jpg",
        size=None,
        semseg=_file("segmentation/{id}.mat", dataclasses.replace(_NYUD_CLASSES, key="segmentation")),
        depth=_file("depth/{id}.mat", dataclasses.replace(_NYUD_DEPTH, key="depth")),
        normals=_file("normals/{id}.jpg", _RGB_NORMALS),
        edge=_file("edge/{id}.png", Encoding(divisor=255, bits=8)),
    ),
)

_CONTEXT = "pascal-context/trainval/{id}.mat"

_PASCAL = (
    Layout(
        name="atrc",
        used_by="ASTMT, ATRC, DeMT, InvPT and others",
        image="JPEGImages/{id}.jpg",
        labels={
            "semseg": LabelFile(
                paths=("semseg/VOC12/{id}.png", "semseg/pascal-context/{id}.png"), encoding=Encoding(bits=8)
            ),
            "human_parts": _file("human_parts/{id}.mat", Encoding(), derive="human_parts"),
            "sal": _file("sal_distill/{id}.png", Encoding(threshold=127.5, bits=8)),
            "normals": _file(
                "normals_distill/{id}.png",
                dataclasses.replace(_RGB_NORMALS, invalid=(math.nan,), bits=None),
                derive="normals",
                also=_CONTEXT,
            ),
            "edge": _file(_CONTEXT, Encoding(), derive="edge"),
        },
        tasks=DATASETS["pascal"],
        splits={"train": 4998, "val": 5105},
        ids="ImageSets/Context/{split}.txt",
    ),
)

#: Train id of each label id of the 19 classes that count; the others are unlabelled.
CITYSCAPES_IDS = dict(zip((7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33), range(19)))
_CITYSCAPES_VOID = tuple(id for id in (-1, *range(35), 255) if id not in CITYSCAPES_IDS)


def _preprocessed(name: str, used_by: str, folder: str, classes: int) -> Layout:
    semseg, depth = DATASETS["cityscapes"]["semseg"], DATASETS["cityscapes"]["depth"]
    if classes != semseg.channels:
        semseg = dataclasses.replace(semseg, channels=classes, classes=None, palette=None)
    return Layout(
        name=name,
        used_by=used_by,
        image="{split}/image/{id}.npy",
        labels={
            "semseg": _file(f"{{split}}/{folder}/{{id}}.npy", Encoding(invalid=(-1,))),
            "depth": _file("{split}/depth/{id}.npy", Encoding(invalid=(0,), kind="disparity")),
        },
        tasks={"semseg": semseg, "depth": dataclasses.replace(depth, unit=None)},
        splits={"train": 2975, "val": 500},
        size=CITYSCAPES_SIZES["mtan"],
    )


_CITYSCAPES = (
    Layout(
        name="raw",
        used_by="TaskPrompter, MTMamba; as downloaded",
        image="leftImg8bit/{split}/{id}_leftImg8bit.png",
        labels={
            "semseg": _file(
                "gtFine/{split}/{id}_gtFine_labelIds.png",
                Encoding(ids=CITYSCAPES_IDS, invalid=_CITYSCAPES_VOID, bits=8),
            ),
            "depth": _file(
                "disparity/{split}/{id}_disparity.png",
                Encoding(divisor=256, offset=-1 / 256, invalid=(0,), bits=16, kind="disparity"),
            ),
        },
        tasks=DATASETS["cityscapes"],
        splits={"train": 2975, "val": 500},
        size=CITYSCAPES_SIZES["taskprompter"],
    ),
    _preprocessed("mtan_7", "MTAN", "label_7", 7),
    _preprocessed("mtan_19", "MTAN", "label_19", 19),
    _preprocessed("libmtl", "LibMTL", "label", 7),
)

#: Layouts of each data set, most used first.
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {"nyud": _NYUD, "pascal": _PASCAL, "cityscapes": _CITYSCAPES}


def get_layout(dataset: str, name: str) -> Layout:
    """A layout by name. Raises `ValueError` for an unknown one."""
    for layout in LAYOUTS[dataset]:
        if layout.name == name:
            return layout
    raise ValueError(
        f"Expected `layout` of {dataset!r} to be 'auto' or one of {[x.name for x in LAYOUTS[dataset]]}, got {name!r}"
    )


def detect_layout(dataset: str, root: Path, split: str, tasks: list[str] | None = None) -> Layout:
    """The layout that a folder has: all files of one of its first samples are there.

    Args:
        dataset: ``"nyud"``, ``"pascal"`` or ``"cityscapes"``.
        root: Folder of the data set.
        split: Split to look at.
        tasks: Tasks whose files count; by default all.

    Raises:
        DataError: if no layout fits, naming the files that were looked for, or if several do.
    """
    if not root.is_dir():
        raise MissingFileError(f"No folder {str(root)!r}")
    fitting, lacking = [], []
    for layout in LAYOUTS[dataset]:
        try:
            ids = layout.read_ids(root, split)[:8]
        except MissingFileError as error:
            lacking.append(f"{layout.name}: {error}")
            continue
        absent = [layout.missing(root, split, id, list(layout.labels) if tasks is None else tasks) for id in ids]
        if not all(absent):
            fitting.append(layout)
        else:
            lacking.append(
                f"{layout.name}: no {', '.join(str(path.relative_to(root)) for path in min(absent, key=len))}"
            )
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = [layout.name for layout in fitting]
        raise DataError(f"{str(root)!r} fits the layouts {names}; choose one with `layout`")
    raise DataError(f"{str(root)!r} has no known layout of {dataset!r}: " + "; ".join(lacking))
