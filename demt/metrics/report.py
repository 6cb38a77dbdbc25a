"""A table of multi-task results."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from demt.metrics.functional.gain import HIGHER_IS_BETTER, LOWER_IS_BETTER
from demt.tasks import Task

_PERCENT = HIGHER_IS_BETTER | {"abs_rel"}


def result_table(
    results: Mapping[str, float], tasks: Mapping[str, Task], *, title: str, notes: Mapping[str, str]
) -> Table:
    """Lay out results as `MultiTaskMetrics.compute` returns them.

    Args:
        results: Values by ``"task/metric"``.
        tasks: The tasks, for the unit of a regression.
        title: Printed above the table.
        notes: Settings to print beside the results of a task.
    """
    table = Table(title=title)
    for column in ("task", "metric", "value", "unit", "better", "settings"):
        table.add_column(column, justify="right" if column == "value" else "left")
    previous = None
    for name, *row in result_rows(results, tasks):
        first = name != previous
        table.add_row(name if first else "", *row, notes.get(name, "") if first else "")
        previous = name
    return table


def result_rows(results: Mapping[str, float], tasks: Mapping[str, Task]) -> list[tuple[str, str, str, str, str]]:
    """Task, metric, value for reading, unit and what is better, of what `MultiTaskMetrics.compute` returns."""
    rows = []
    for key, value in results.items():
        name, metric = key.split("/", 1)
        percent = metric in _PERCENT
        unit = "%" if percent else "degrees" if metric in ("mean", "median") else tasks[name].unit or ""
        better = "lower" if metric in LOWER_IS_BETTER else "higher" if metric in HIGHER_IS_BETTER else ""
        rows.append((name, metric, f"{100 * value:.2f}" if percent else f"{value:.4f}", unit, better))
    return rows
