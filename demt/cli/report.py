"""What `demt data` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from demt.data.doctor.convert import Change
from demt.data.doctor.report import Problem, Report, Values
from demt.tasks import Task, is_class_map

_NAMES = {"nyud": "NYUD-v2", "pascal": "PASCAL-Context", "cityscapes": "Cityscapes"}
_KINDS = {
    "split": "Lists and counts",
    "missing": "Missing files",
    "empty": "Empty files",
    "invalid": "Files that cannot be read, or hold something else",
    "size": "Another size",
    "implausible": "Hardly right",
}
_EXAMPLES = 3


def heading(report: Report) -> str:
    """Which data set it is."""
    return f"{_NAMES[report.dataset]}, layout {report.layout}" if report.dataset else "Own data"


def show_report(report: Report, console: Console) -> None:
    """Print tables of splits and tasks, then what is wrong, some of each kind."""
    console.print(f"{heading(report)}: {report.root}", soft_wrap=True, highlight=False, markup=False)
    tables = [_splits(report), *([_values(report)] if report.values else [])]
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    for note in report.notes:
        console.print(f"Note: {note}.", highlight=False, markup=False)
    for kind, words in _KINDS.items():
        if problems := [problem for problem in report.problems if problem.kind == kind]:
            console.print(Text(f"{words} ({len(problems)})", style="bold red"))
            _show_some(problems, console)
            console.print()
    count = len(report.problems)
    said = f"[red]{count} problem{'s' if count > 1 else ''}[/red]" if count else "[green]No problems[/green]"
    opened, listed = (sum(getattr(split, name) for split in report.splits.values()) for name in ("opened", "listed"))
    part = f"; {opened} of {listed} samples were opened" if opened < listed else ""
    console.print(said + part, highlight=False)


def _show_some(problems: list[Problem], console: Console) -> None:
    by_task: dict[str | None, list[Problem]] = {}
    for problem in problems:
        by_task.setdefault(problem.task, []).append(problem)
    for task, group in by_task.items():
        for problem in group[:_EXAMPLES]:
            console.print(Padding(Text(problem.message), (0, 0, 0, 2)))
        if len(group) > _EXAMPLES:
            console.print(f"  … and {len(group) - _EXAMPLES} more of {task}; --json lists all", highlight=False)


def _splits(report: Report) -> Table:
    table = Table("split", box=None, pad_edge=False)
    counted = any(split.known is not None for split in report.splits.values())
    for column in ("samples", *(["published"] if counted else []), "opened", "whole"):
        table.add_column(column, justify="right")
    for name, split in report.splits.items():
        known = [str(split.known)] if counted else []
        table.add_row(name, str(split.listed), *known, str(split.opened), str(split.whole))
    return table


def _values(report: Report) -> Table:
    table = Table("task", box=None, pad_edge=False)
    for column in ("files", "labelled"):
        table.add_column(column, justify="right")
    table.add_column("holds")
    for name, values in report.values.items():
        share = f"{values.labelled / values.pixels:.1%}" if values.pixels and name != "image" else ""
        table.add_row(name, str(values.files), share, _holds(report.tasks.get(name), values))
    return table


def _holds(task: Task | None, values: Values) -> str:
    if task is None:
        sizes = sorted(values.sizes)
        found = [f"{height} x {width}" for height, width in sizes]
        return ", ".join(found) if len(found) < 4 else f"{len(found)} sizes, {found[0]} to {found[-1]}"
    if not values.labelled:
        return ""
    if is_class_map(task):
        return f"{(values.classes > 0).sum()} of {task.channels} classes"
    unit = f" {task.unit}" if task.unit else ""
    what = "lengths of " if task.activation == "unit" else ""
    return f"{what}{values.low:.3g} to {values.high:.3g}{unit}, mean {values.mean:.3g}{unit}"


def show_changes(changes: Mapping[str, Change], console: Console) -> None:
    """Print what was copied, what was rewritten, and what that lost."""
    table = Table("", box=None, pad_edge=False)
    for column in ("copied", "written anew"):
        table.add_column(column, justify="right")
    table.add_column("difference")
    for name, change in changes.items():
        lost = f"[yellow]up to {change.largest:.3g}, mean {change.mean:.2g}[/yellow]" if change.largest else "none"
        table.add_row(escape(name), str(change.copied), str(change.written), lost)
    console.print(table)
    if lossy := [name for name, change in changes.items() if change.largest]:
        console.print(
            f"[yellow]Lossy: {', '.join(lossy)}.[/yellow] This layout keeps them as JPEG or in 8 bits. "
            "Differences are in levels of 255 of images, and in the labels' own units.",
            highlight=False,
        )
