"""NYUD-v2, PASCAL-Context and Cityscapes, in every layout of `demt.data.published_layouts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar

from demt.data.dataset import FileDataset, OnError, Transform
from demt.data.layout import Derive
from demt.data.pascal import default_folder, derived_labels
from demt.data.published_layouts import detect_layout, get_layout
from demt.data.tv_tensors import Label
from demt.tasks import DATASETS


class PublishedDataset(FileDataset):
    """A data set of the table of layouts.

    Args:
        root: Folder of the data set.
        split: ``"train"`` or ``"val"``.
        tasks: Names of the tasks to read; by default all.
        transform: See `MultiTaskDataset`; `demt.data.transforms` has the published ones.
        layout: Name of the layout (see `demt.data.published_layouts.LAYOUTS`), or ``"auto"``: found from the files.
        on_error: See `MultiTaskDataset`.

    Raises:
        ValueError: for an unknown split, task or layout.
        DataError: if the folder has none of the layouts, or fits several.
    """

    dataset: ClassVar[str]

    def __init__(
        self,
        root: str | PathLike[str],
        split: str = "train",
        *,
        tasks: Sequence[str] | None = None,
        transform: Transform | None = None,
        layout: str = "auto",
        on_error: OnError = "raise",
    ) -> None:
        self.root, self.split = Path(root), split
        wanted = None if tasks is None else list(tasks)
        if isinstance(tasks, str) or wanted == []:
            raise ValueError(f"Expected `tasks` to be a list of names such as ['semseg'], got {tasks!r}")
        known = list(DATASETS[self.dataset])
        if unknown := sorted(set(wanted or []) - set(known)):
            raise ValueError(f"`tasks` names {unknown}, but {type(self).__name__} has {known}")
        if layout == "auto":
            self.layout = detect_layout(self.dataset, self.root, split, wanted)
        else:
            self.layout = get_layout(self.dataset, layout)
        chosen = {name: task for name, task in self.layout.tasks.items() if wanted is None or name in wanted}
        super().__init__(self.layout.read_ids(self.root, split), chosen, transform=transform, on_error=on_error)

    def files(self, index: int) -> dict[str, Path]:
        """The files of the sample at `index`, there or not: ``"image"``, and one of each task."""
        where = (self.root, self.split, self.ids[index])
        return {
            "image": self.layout.image_path(*where),
            **{task: self.layout.label_path(*where, task) for task in self.tasks},
        }

    def read_label(self, index: int, task: str) -> Label:
        """The label map (C, H, W) of one task, before the transform. Raises `DataError`."""
        return self.layout.read_label(self.root, self.split, self.ids[index], task, self._derive())

    def _derive(self) -> Mapping[str, Derive]:
        return {}


class NYUDv2(PublishedDataset):
    """NYUD-v2: 795 training and 654 test images (``"val"``) with `semseg` (40), `depth`, `normals` and `edge`.

    Layouts: ``"atrc"`` (folder ``NYUDv2/``), ``"vandenhende"`` and ``"astmt"`` (both ``NYUD_MT/``). For the arguments
    see `PublishedDataset`.
    """

    dataset = "nyud"


class Cityscapes(PublishedDataset):
    """Cityscapes: 2975 training and 500 validation images with `semseg` and disparity (under the name `depth`).

    Layouts: ``"raw"`` (19 classes, disparity in pixels), and the small arrays of MTAN and LibMTL: ``"mtan_7"``,
    ``"mtan_19"``, ``"libmtl"`` (7 classes). For the arguments see `PublishedDataset`.
    """

    dataset = "cityscapes"


class PASCALContext(PublishedDataset):
    """PASCAL-Context: 4998 training and 5105 test images (``"val"``).

    Tasks are `semseg` (21), `human_parts` (7), `sal`, `normals` and `edge`. Boundaries, parts, and where normals are
    valid are computed from MATLAB files and kept in a cache; boundaries need ``pip install 'demt[data]'``.

    Args:
        root: See `PublishedDataset`, as for the other arguments.
        split: See there.
        tasks: See there.
        transform: See there.
        layout: See there.
        on_error: See there.
        cache_dir: Folder of the cache; by default ``demt/data`` beside the Hugging Face caches (see ``HF_HOME``).
    """

    dataset = "pascal"

    def __init__(
        self,
        root: str | PathLike[str],
        split: str = "train",
        *,
        tasks: Sequence[str] | None = None,
        transform: Transform | None = None,
        layout: str = "auto",
        on_error: OnError = "raise",
        cache_dir: str | PathLike[str] | None = None,
    ) -> None:
        self.cache_dir = default_folder() if cache_dir is None else Path(cache_dir)
        super().__init__(root, split, tasks=tasks, transform=transform, layout=layout, on_error=on_error)

    def _derive(self) -> Mapping[str, Derive]:
        return derived_labels(self.cache_dir)


#: Readers by data set, as `demt.data.published_layouts.LAYOUTS` names them.
READERS: Mapping[str, type[PublishedDataset]] = {
    reader.dataset: reader for reader in (NYUDv2, PASCALContext, Cityscapes)
}
