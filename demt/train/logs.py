"""What a run reports: CSV files, Accelerate's loggers, a progress bar or lines, pictures of predictions."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from demt.data import MultiTaskDataset
from demt.files import write_whole
from demt.inference.predict import predict
from demt.metrics.report import result_rows
from demt.models import MultiTaskModel
from demt.tasks import Task
from demt.viz import panel

_logger = logging.getLogger("demt")


class CsvLog:
    """Rows of numbers in a CSV file, the step first; rows from a step on are dropped when a run goes back to it.

    If the disk is full, rows are lost with a warning, but the run continues.

    Args:
        path: The file; what it holds of steps up to `start` stays.
        start: Steps that are done.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if path.exists() and start:
            with path.open(newline="", encoding="utf-8") as file:
                # A killed run may have left part of a row.
                rows = [row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) <= start]
            self.columns = list(rows[0]) if rows else []
        if not path.exists():
            return
        with forgiven(f"write {str(path)!r} anew"):
            write_whole(path, lambda part: self._append(Path(part), rows, heading=bool(rows)))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; the first one settles the columns."""
        self.columns = self.columns or list(row)
        with forgiven(f"add step {row['step']} to {str(self.path)!r}"):
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                self._append(self.path, [row], heading=not size)
            except OSError:
                os.truncate(self.path, size)
                raise

    def _append(self, path: Path, rows: Iterable[Mapping[str, Any]], *, heading: bool) -> None:
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", lineterminator="\n")
            if heading:
                writer.writeheader()
            writer.writerows(rows)


def _is_whole(row: Mapping[str, Any]) -> bool:
    return None not in row and None not in row.values() and str(row.get("step")).isdecimal()


@contextlib.contextmanager
def forgiven(what: str) -> Iterator[None]:
    """Warn of an error of the file system, where a run can do without."""
    try:
        yield
    except OSError as error:
        _logger.warning("Cannot %s: %s; training continues", what, error)


class _Bar(Progress):
    """A bar with the losses below, where they have room."""

    losses = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, and what stands below it."""
        yield self.make_tasks_table(self.tasks)
        if self.losses:
            yield Text(self.losses, style="dim")


class ProgressLog:
    """A progress bar on a terminal, lines elsewhere.

    Args:
        console: Where to print.
        start, steps: Steps done, and of the whole run.
        shown: Whether this process prints.
    """

    def __init__(self, console: Console, start: int, steps: int, shown: bool) -> None:
        self.console, self.shown = console, shown
        self.live = shown and console.is_terminal
        columns = MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(), TextColumn("{task.description}")
        self.bar = _Bar(*columns, console=console, disable=not self.live, transient=True)
        self.task = self.bar.add_task("", total=steps, completed=start)

    def __enter__(self) -> ProgressLog:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def advance(self) -> None:
        """One step is done."""
        self.bar.advance(self.task)

    def report(self, row: Mapping[str, Any]) -> None:
        """Show a row of the training log."""
        parts = ", ".join(f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss/"))
        speed = f"{row['steps_per_second']:.2f} steps/s, {100 * row['data_wait']:.0f} % waiting for data"
        if self.live:
            self.bar.losses = f"total {row['total']:.3f} ({parts})"
            self.bar.update(self.task, description=speed)
        elif self.shown:
            line = f"step {row['step']}: total {row['total']:.3f} ({parts}), {speed}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def results(self, step: int, found: Mapping[str, float], tasks: Mapping[str, Task]) -> None:
        """Print metrics and losses of an evaluation, a line for each task, above the bar where there is one."""
        if not self.shown:
            return
        lines: dict[str, list[str]] = {}
        metrics = {key: value for key, value in found.items() if key.split("/")[0] in tasks}
        arrows = {"higher": " ↑", "lower": " ↓", "": ""}
        for name, metric, value, unit, better in result_rows(metrics, tasks):
            lines.setdefault(name, []).append(f"{metric} {value}{f' {unit}' if unit else ''}{arrows[better]}")
        losses = {key: value for key, value in found.items() if key not in metrics}
        lines["loss"] = [f"{key.partition('/')[2] or 'total'} {value:.4g}" for key, value in losses.items()]
        width = max(map(len, lines))
        self.console.print(f"Evaluation after step {step} (↑ higher, ↓ lower is better)", highlight=False)
        for name, values in lines.items():
            line = f"  {name:{width}}  {', '.join(values)}"
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)


def draw_samples(model: MultiTaskModel, dataset: MultiTaskDataset, count: int, folder: Path, step: int) -> None:
    """Panels of predictions and labels of the first samples of a data set, as ``step_0000100_ID.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(count, len(dataset))):
        sample = dataset.read(index)
        image = sample["image"].as_subclass(torch.Tensor)
        pixels = image.permute(1, 2, 0).numpy()
        shown = Image.fromarray(np.ascontiguousarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]))
        labels = {name: sample[name].numpy() for name in model.tasks if name in sample}
        prediction = predict(model, image)
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in sample["id"])
        overview = panel(shown, prediction, model.tasks, labels=labels, note=f"step {step}", cell_width=240)
        overview.save(folder / f"step_{step:07d}_{name}.png")
