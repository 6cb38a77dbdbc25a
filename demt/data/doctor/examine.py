"""Every file of every sample, looked at in as many processes as wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from demt.data.dataset import FileDataset, other_size
from demt.data.doctor.recognise import spread
from demt.data.doctor.report import Kind, Problem, Report, Values, values_of_image, values_of_label
from demt.data.files import DataError, MissingFileError
from demt.data.hub import HubDataset

Size = tuple[int, int]


@dataclasses.dataclass
class Finding:
    """What one sample shows."""

    split: str
    opened: bool
    problems: list[Problem] = dataclasses.field(default_factory=list)
    values: dict[str, Values] = dataclasses.field(default_factory=dict)


#: Shows progress: takes findings and their number, and gives the findings.
Show = Callable[[Iterable[Finding], int], Iterable[Finding]]


def examine_all(report: Report, size: Size | None, sample: int | None, workers: int, show: Show | None) -> None:
    """Add to a report what the samples of its data sets show; see `demt.data.doctor.check.check_published`."""
    report.tasks = next((dataset.tasks for dataset in report.datasets.values()), {})
    report.values = {name: Values() for name in ("image", *report.tasks) if report.datasets}
    samples = _Samples(report.root, report.datasets, size, sample)
    # A few samples are read before processes have started; these start before the thread that shows progress does.
    workers = workers if len(samples) > 64 else 0
    findings = iter(DataLoader(samples, batch_size=None, num_workers=workers, collate_fn=_same))
    for finding in show(findings, len(samples)) if show else findings:
        split = report.splits[finding.split]
        split.opened += finding.opened
        split.whole += finding.opened and not finding.problems
        report.problems += finding.problems
        for name, values in finding.values.items():
            report.values[name].add(values)


def problem_of(
    kind: Kind,
    message: str,
    root: Path,
    *,
    split: str | None = None,
    task: str | None = None,
    id: str | None = None,
    file: Path | None = None,
) -> Problem:
    """A problem with paths below the data set's folder."""
    inside = file.relative_to(root) if file is not None and file.is_relative_to(root) else file
    return Problem(
        kind=kind,
        message=message.replace(repr(str(root / "x"))[1:-2], ""),
        split=split,
        task=task,
        id=id,
        file=None if inside is None else inside.as_posix(),
    )


def _same(finding: Any) -> Any:
    return finding


class _Samples(Dataset[Finding]):
    def __init__(self, root: Path, datasets: Mapping[str, FileDataset], size: Size | None, sample: int | None) -> None:
        self.root, self.datasets, self.size = root, datasets, size
        self.places = [(split, index) for split, dataset in datasets.items() for index in range(len(dataset))]
        self.opened = {split: set(spread(dataset.ids, sample)) for split, dataset in datasets.items()}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Finding:
        split, index = self.places[position]
        dataset = self.datasets[split]
        id, size = dataset.ids[index], self.size
        finding = Finding(split, id in self.opened[split])
        for name, path in dataset.files(index).items():
            values, fault = _look(dataset, index, name, path, finding.opened)
            if values is not None:
                finding.values[name] = values
                (own,) = values.sizes
                if size is not None and own != size:
                    message = f"{str(path)!r} is {own[0]} x {own[1]} (height x width), but the images of this layout "
                    message += f"are {size[0]} x {size[1]}"
                    image = dataset.files(index)["image"]
                    fault = ("size", message if name == "image" else other_size(path, own, image, size))
            if name == "image":
                size = None if values is None else own
            if fault is not None:
                kind, message = fault
                problem = problem_of(kind, message, self.root, split=split, task=name, id=id, file=path)
                # One file may serve two tasks.
                if problem.message not in [known.message for known in finding.problems]:
                    finding.problems.append(problem)
        return finding


def _look(
    dataset: FileDataset, index: int, name: str, path: Path, opened: bool
) -> tuple[Values | None, tuple[Kind, str] | None]:
    """What a file holds, if it is opened and can be, and what is wrong with it, if anything is."""
    try:
        # What lies in a column has no file of its own.
        if not isinstance(dataset, HubDataset) and path.stat().st_size == 0:
            return None, ("empty", f"{str(path)!r} is empty")
        if not opened:
            return None, None
        if name == "image":
            return values_of_image(dataset.read_image(index), path), None
        return values_of_label(dataset.read_label(index, name), dataset.tasks[name]), None
    except MissingFileError as error:
        return None, ("missing", str(error))
    except FileNotFoundError:
        return None, ("missing", f"No file {str(path)!r}")
    except (DataError, ImportError, OSError) as error:
        return None, ("invalid", str(error))
