"""`SyntheticRooms`: furnished rooms with exact labels for all six tasks, made when asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from demt.data.batch import Sample
from demt.data.dataset import MultiTaskDataset, Transform
from demt.data.rooms.dice import Dice
from demt.data.rooms.furnish import make_scene
from demt.data.rooms.renderer import render
from demt.data.rooms.write import write
from demt.data.tv_tensors import Boundary, Depth, Label, SurfaceNormals
from demt.tasks import DATASETS

_TYPES: dict[str, type[Label]] = {
    "semseg": Label,
    "human_parts": Label,
    "sal": Label,
    "normals": SurfaceNormals,
    "depth": Depth,
    "edge": Boundary,
}


class SyntheticRooms(MultiTaskDataset):
    """Images of furnished rooms with people, and exact labels for six tasks, from a seed alone: no files, no download.

    Scene `index` of a seed is the same in every process and on every machine; see `docs/rooms.md` for what that covers,
    and for the rules of each label. Two seeds have no scene in common: train on one and evaluate on another.

    Args:
        size: Height and width of the images; any.
        length: Number of scenes. Scene i does not depend on it.
        seed: At least 0 and less than 2^63.
        tasks: Names of the tasks to give; by default all: ``semseg`` (16 classes), ``human_parts``, ``sal``,
            ``normals``, ``depth`` and ``edge``.
        transform: See `MultiTaskDataset`.

    Raises:
        ValueError: for a size, length, seed or task that does not exist.

    Example:
        >>> sample = SyntheticRooms(size=(48, 64), length=2, tasks=["depth"])[1]
        >>> sample["id"], tuple(sample["image"].shape), tuple(sample["depth"].shape)
        ('0-000001', (3, 48, 64), (1, 48, 64))
    """

    def __init__(
        self,
        size: tuple[int, int] = (192, 256),
        length: int = 1000,
        seed: int = 0,
        *,
        tasks: Sequence[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        if not isinstance(size, Sequence) or len(size) != 2 or not all(_is_whole(v, 1) for v in size):
            raise ValueError(f"Expected `size` to be (height, width), whole numbers >= 1, got {size!r}")
        if not _is_whole(length, 1):
            raise ValueError(f"Expected `length` to be a whole number >= 1, got {length!r}")
        if not _is_whole(seed, 0) or seed >= 2**63:
            raise ValueError(f"Expected `seed` to be a whole number from 0 to 2**63 - 1, got {seed!r}")
        known = DATASETS["rooms"]
        if isinstance(tasks, str) or (tasks is not None and not len(tasks)):
            raise ValueError(f"Expected `tasks` to be a list of names such as ['semseg'], got {tasks!r}")
        if unknown := sorted(set(tasks or ()) - set(known)):
            raise ValueError(f"`tasks` names {unknown}, but SyntheticRooms has {list(known)}")
        self.size, self.seed = (int(size[0]), int(size[1])), int(seed)
        chosen = {name: task for name, task in known.items() if tasks is None or name in tasks}
        super().__init__([f"{seed}-{i:06d}" for i in range(length)], chosen, transform=transform)

    def render(self, index: int) -> dict[str, NDArray[Any]]:
        """Image and all label maps of a scene as arrays, with the map of instances; see `demt.data.rooms.render`."""
        return render(make_scene(self.seed, index), self.size, Dice(self.seed, index, 1))

    def intrinsics(self, index: int) -> NDArray[np.float64]:
        """Camera matrix (3, 3) of a scene's image: ``[[f, 0, cx], [0, f, cy], [0, 0, 1]]``.

        In pixels of images of this `size`, the centre of the first at (0, 0); depth is along the optical axis, so that
        the pixel of row v and column u shows the point ((u - cx) z / f, (v - cy) z / f, z): x right, y down, z forward.
        """
        return make_scene(self.seed, index).camera.intrinsics(self.size)

    def read(self, index: int) -> Sample:
        """The sample at `index`, before the transform."""
        maps = self.render(index)
        sample: Sample = {"image": tv_tensors.Image(torch.from_numpy(maps["image"]))}
        for name in self.tasks:
            values = maps[name] if maps[name].ndim == 3 else maps[name][None]
            sample[name] = _TYPES[name](torch.from_numpy(np.ascontiguousarray(values)))
        return {**sample, "id": self.ids[index]}

    def write(
        self,
        root: str | PathLike[str],
        dataset: str,
        layout: str | None = None,
        *,
        splits: Mapping[str, int] | None = None,
    ) -> None:
        """Write scenes as the files of a published data set, to test what reads them.

        Classes become those of the data set by a plain table (`demt.data.rooms.formats`): the files are right, but they
        are no substitute for the data set. The folder appears when all is written; an interrupted run leaves none.

        Args:
            root: The folder to make.
            dataset: ``"nyud"``, ``"pascal"`` or ``"cityscapes"``.
            layout: A layout of `demt.data.published_layouts`; by default the data set's most used one.
            splits: Number of scenes of each split, taken in order; by default ``{"train": 8, "val": 4}``.

        Raises:
            ValueError: for an unknown data set or layout, or more scenes than there are.
            FileExistsError: if the folder exists and is not empty.
            ImportError: if MATLAB files are to be written and SciPy is missing.
        """
        write(self, Path(root), dataset, layout, {"train": 8, "val": 4} if splits is None else dict(splits))

    def __repr__(self) -> str:
        return re.sub(r"\(", f"(seed {self.seed}, {self.size[0]} x {self.size[1]}, ", super().__repr__(), count=1)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)
