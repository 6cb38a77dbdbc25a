"""The doctor: checks that a data set is complete and that its files hold what they should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from demt.data.dataset import FileDataset
from demt.data.doctor.examine import Show, examine_all, problem_of
from demt.data.doctor.recognise import find_layouts
from demt.data.doctor.report import Problem, Report, SplitCount
from demt.data.files import ARRAYS, PICTURES, DataError, MissingFileError, is_hidden
from demt.data.folder import MultiTaskFolder, by_name, match_names
from demt.data.hub import HubDataset
from demt.data.layout import Layout
from demt.data.published import READERS
from demt.data.published_layouts import get_layout


def check_published(
    root: str | PathLike[str],
    *,
    dataset: str | None = None,
    layout: str = "auto",
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    subset: bool = False,
    sample: int | None = None,
    workers: int = 0,
    show: Show | None = None,
    **options: Any,
) -> Report:
    """Check NYUD-v2, PASCAL-Context or Cityscapes in any of their layouts.

    Args:
        root: Folder of the data set.
        dataset: ``"nyud"``, ``"pascal"`` or ``"cityscapes"``; by default detected from the files, as is the layout,
            also when some are missing.
        layout: A layout of `demt.data.published_layouts`.
        tasks: Tasks to check; by default all.
        splits: Splits to check; by default all.
        subset: The folder holds a part of the data set on purpose: samples are not counted.
        sample: Number of samples of each split to open, evenly spread; by default all. Whether files are there is
            looked up for all of them.
        workers: Processes; 0 for none besides this one.
        show: Shows progress.
        options: Further arguments of the reader, such as ``cache_dir``.

    Raises:
        DataError: if the folder has no known layout.
        ValueError: for unknown arguments.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(
            f"{str(root)!r} is not a folder; unpack archives with demt data unpack"
            if root.exists()
            else f"No folder {str(root)!r}"
        )
    name, found, notes = layout_of(root, dataset, layout, tasks)
    if unknown := sorted(set(splits or ()) - set(found.splits)):
        raise ValueError(f"Expected splits of {list(found.splits)}, got {unknown}")
    datasets: dict[str, FileDataset] = {}
    report = Report(root, name, found.name, {}, datasets, {}, notes=notes)
    for split in splits or found.splits:
        known = None if subset else found.splits[split]
        try:
            datasets[split] = READERS[name](root, split, tasks=tasks, layout=found.name, **options)
        except DataError as error:
            report.splits[split] = SplitCount(0, known)
            report.problems.append(problem_of("split", str(error), root, split=split))
            continue
        report.splits[split] = SplitCount(len(datasets[split]), known)
        if known not in (None, len(datasets[split])):
            message = f"{split} has {len(datasets[split])} samples, but the published one has {known}"
            report.problems.append(Problem(kind="split", message=message, split=split))
        if found.ids is None:
            report.problems += _without_image(root, split, found, datasets[split])
    # The running numbers of files that no list names say nothing.
    if found.ids is not None or not all(id.isdecimal() for data in datasets.values() for id in data.ids):
        report.problems += _in_two_splits(datasets)
    examine_all(report, found.size, sample, workers, show)
    report.add_plausibility()
    return report


def check_folder(
    dataset: MultiTaskFolder, *, sample: int | None = None, workers: int = 0, show: Show | None = None
) -> Report:
    """Check own data; labels that no image belongs to are problems, images without labels are not.

    Args:
        dataset: The data set, with or without a transform.
        sample: See `check_published`, as for the other arguments.
        workers: See there.
        show: See there.
    """
    report = Report(dataset.root, None, None, {}, {"all": dataset}, {"all": SplitCount(len(dataset))})
    if dataset.images is not None:
        with_image = by_name(dataset.root / dataset.images, (*PICTURES, ".npy"))
        for task in dataset.tasks:
            labels = by_name(dataset.root / task, PICTURES + ARRAYS)
            for name in match_names(labels, with_image)[1]:
                file = f"{task}/{labels[name]}"
                message = f"'{file}' belongs to no image in '{dataset.images}/'"
                report.problems.append(Problem(kind="missing", message=message, task="image", id=name, file=file))
        for folder in (dataset.images, *dataset.tasks):
            if others := _other_endings(dataset.root / folder):
                report.notes.append(f"Files in '{folder}/' with other endings are not samples: {', '.join(others)}")
    if bare := sum(len(dataset.files(index)) == 1 for index in range(len(dataset))):
        report.notes.append(f"{bare} of {len(dataset)} images have no label of any of the tasks")
    examine_all(report, None, sample, workers, show)
    report.add_plausibility()
    return report


def check_hub(
    datasets: Mapping[str, HubDataset], *, sample: int | None = None, workers: int = 0, show: Show | None = None
) -> Report:
    """Check Parquet files or a data set of the Hub.

    Args:
        datasets: The data set of each split, all of one set of tasks.
        sample: See `check_published`, as for the other arguments.
        workers: See there.
        show: See there.
    """
    counts = {split: SplitCount(len(dataset)) for split, dataset in datasets.items()}
    report = Report(Path(next(iter(datasets.values())).source), None, None, {}, datasets, counts)
    for split, dataset in datasets.items():
        bare = sum(not dataset.labels_of(index) for index in range(len(dataset)))
        if bare:
            report.notes.append(f"{bare} of {len(dataset)} images of {split} have no label of any of the tasks")
    examine_all(report, None, sample, workers, show)
    report.add_plausibility()
    return report


def layout_of(
    root: Path, dataset: str | None, layout: str, tasks: Sequence[str] | None
) -> tuple[str, Layout, list[str]]:
    """Data set and layout that a folder has, found where not given, and notes. Raises `DataError` if there is none."""
    if dataset is not None and dataset not in READERS:
        raise ValueError(f"Expected a data set of {list(READERS)}, got {dataset!r}")
    if layout != "auto" and dataset is not None:
        return dataset, get_layout(dataset, layout), []
    fits = [fit for fit in find_layouts(root, dataset=dataset, tasks=tasks) if layout in ("auto", fit.layout.name)]
    if not fits:
        inside = [path.name for path in sorted(root.iterdir()) if path.is_dir() and find_layouts(path)]
        hint = f"; {inside} inside it {'has one' if len(inside) == 1 else 'have one'}" if inside else ""
        raise DataError(f"{str(root)!r} has no known layout of a published data set{hint}")
    best, *others = fits
    equal = [fit.layout.name for fit in others if fit.share == best.share]
    notes = [f"The folder also fits the layouts {equal}; name one to check it"] if equal else []
    return best.dataset, best.layout, notes


def _without_image(root: Path, split: str, layout: Layout, dataset: FileDataset) -> list[Problem]:
    """Labels without an image, where the list of samples is made of the images that are there."""
    ids, problems = set(dataset.ids), {}
    for task in dataset.tasks:
        for id in layout.found_ids(root, split, layout.labels[task].paths[-1]):
            if id not in ids and id not in problems:
                file = layout.image_path(root, split, id)
                problems[id] = problem_of(
                    "missing", f"No file {str(file)!r}", root, split=split, task="image", id=id, file=file
                )
    return list(problems.values())


def _other_endings(folder: Path) -> list[str]:
    """Endings of files, such as .exr, that no reader opens; what systems leave behind does not count."""
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    known = (*PICTURES, *ARRAYS, "", ".db", ".ini", ".txt", ".json", ".md")
    return sorted({path.suffix for path in inside if not is_hidden(path) and path.suffix.lower() not in known})


def _in_two_splits(datasets: Mapping[str, FileDataset]) -> list[Problem]:
    if len(datasets) < 2:
        return []
    (first, one), (second, other) = datasets.items()
    if not (shared := sorted(set(one.ids) & set(other.ids))):
        return []
    message = f"{first} and {second} share {len(shared)} of their samples, e.g. {shared[0]!r}"
    return [Problem(kind="split", message=message)]
