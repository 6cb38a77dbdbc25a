"""`demt benchmark --all-formats`: one model in all forms that it runs in."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from demt.cli.common import console, errors, friendly_errors, print_json

if TYPE_CHECKING:
    from demt.export.compare import Form


def print_formats(
    name: str,
    size: tuple[int, int] | None,
    threads: int,
    calibrate: Path | None,
    rounds: int,
    random_weights: bool,
    as_json: bool,
) -> None:
    """Measure, and print a table, or JSON."""
    from demt.cli.load import load_model
    from demt.export.compare import as_json as values_of
    from demt.export.compare import compare

    with friendly_errors(), errors.status("Writing and measuring …"), tempfile.TemporaryDirectory() as folder:
        model = load_model(name, random_weights)
        size = size or (model.pretrained_cfg.input_size[1], model.pretrained_cfg.input_size[2])
        forms = compare(model, folder, size=size, threads=threads, rounds=rounds, calibrate=calibrate)
    if as_json:
        print_json({"model": name, "size": size, "threads": threads, "rounds": rounds, "forms": values_of(forms)})
        return
    _print_table(f"{name}, {size[0]}x{size[1]}, threads: {threads}", list(model.tasks), forms)


def _print_table(heading: str, tasks: list[str], forms: Sequence[Form]) -> None:
    from rich.table import Table

    table = Table("form")
    for column in ("ms", "processor ms", "speed", "MB", *tasks):
        table.add_column(column, justify="right")
    for form in forms:
        if form.seconds is None or form.cpu_seconds is None or form.bytes is None or form.differences is None:
            continue
        speed = (forms[0].cpu_seconds or 0) / form.cpu_seconds
        times = [f"{1e3 * form.seconds:.1f}", f"{1e3 * form.cpu_seconds:.1f}", f"{speed:.2f}"]
        away = [f"{form.differences[task]:.2%}" for task in tasks]
        table.add_row(form.name, *times, f"{form.bytes / 1e6:.1f}", *away)
    console.print(heading, highlight=False, markup=False)
    console.print(table)
    console.print(
        "Medians, in turns; speed by processor time; right of MB how far predictions are from torch in float32",
        soft_wrap=True,
    )
    for form in forms:
        if form.missing is not None:
            console.print(f"Not measured: {form.name}: {form.missing}", soft_wrap=True, highlight=False, markup=False)
