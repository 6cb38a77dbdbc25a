"""Writing scenes into a folder that appears when it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from demt.data.rooms.formats import FORMATS, LISTS
from demt.files import new_folder


class Scenes(Protocol):
    """What can be written: `demt.data.SyntheticRooms`."""

    def __len__(self) -> int: ...

    def render(self, index: int) -> dict[str, NDArray[Any]]: ...


def write(scenes: Scenes, root: Path, dataset: str, layout: str | None, splits: Mapping[str, int]) -> None:
    """See `SyntheticRooms.write`."""
    if dataset not in FORMATS:
        raise ValueError(f"Expected `dataset` to be one of {list(FORMATS)}, got {dataset!r}")
    layout = next(iter(FORMATS[dataset])) if layout is None else layout
    if layout not in FORMATS[dataset]:
        raise ValueError(f"Expected `layout` of {dataset!r} to be one of {list(FORMATS[dataset])}, got {layout!r}")
    for name, count in splits.items():
        if name not in ("train", "val") or isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected `splits` to give 'train' and 'val' a whole number >= 1, got {dict(splits)!r}")
    if not splits or sum(splits.values()) > len(scenes):
        raise ValueError(f"`splits` asks for {sum(splits.values())} scenes, but the data set has {len(scenes)}")
    with new_folder(root) as folder:
        _fill(scenes, folder, dataset, layout, splits)


def _fill(scenes: Scenes, folder: Path, dataset: str, layout: str, splits: Mapping[str, int]) -> None:
    index = 0
    for split, count in splits.items():
        ids: list[str] = []
        for _ in range(count):
            # MTAN's and LibMTL's code counts the files of each split, and opens 0.npy, 1.npy, ...
            arrays = dataset == "cityscapes" and layout != "raw"
            ids.append(str(len(ids)) if arrays else f"{index:06d}" + ("_000019" if layout == "raw" else ""))
            for name, contents in FORMATS[dataset][layout](scenes.render(index), ids[-1], split).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
            index += 1
        if dataset in LISTS:
            path = folder / LISTS[dataset].format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
    if dataset == "pascal":
        # The authors' readers keep lists of the images with people there, and stop if they cannot.
        (folder / "ImageSets/Parts").mkdir()
