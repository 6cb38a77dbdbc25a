"""`demt list`: the models there are, and where their weights are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demt.cli.common import AsJson, console, errors, friendly_errors, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from demt.factory import Weights


def list_models(
    filter: Annotated[
        str, typer.Argument(help="Part of a name, or a pattern such as 'degmix_*' or '*.pascal'.", show_default=False)
    ] = "",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Only models with weights, with the published results.")
    ] = False,
    details: Annotated[
        bool, typer.Option("--details", help="With parameters and multiply-adds, which takes some seconds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models, and where their weights are."""
    with friendly_errors():
        from demt.registry import list_tags

        pattern = filter if set(filter) & set("*?[") else f"*{filter}*"
        names = [f"{arch}.{tag}" for arch, tags in list_tags().items() for tag in tags]
        names = [name for name in names if fnmatch(name, pattern) or fnmatch(name.partition(".")[0], pattern)]
        if pretrained:
            from demt.factory import weights_of

            names = [name for name in names if weights_of(name) is not None]
        if not names:
            raise ValueError(
                f"No model{' with weights' if pretrained else ''} fits {filter!r}; a pattern such as '*swin*' or "
                "'*.pascal' may, and demt list alone lists all"
            )
        if as_json:
            print_json([_record(name, details) for name in names])
            return
        console.print(_pretrained_table(names) if pretrained else _table(names, details))
        for note in (_RESULTS if pretrained else "", _COSTS if details and not pretrained else "", _LEGEND):
            if note:
                errors.print(note, highlight=False)


_LEGEND = (
    "[green]here[/green] on this machine · [cyan]hub[/cyan] on the Hugging Face Hub · [yellow]fetch[/yellow] with the "
    "authors: demt fetch MODEL.DATASET · blank: no weights yet. More: demt info MODEL"
)
_COSTS = "GMACs: 10⁹ multiply-adds of one image of the size beside it."
_RESULTS = (
    "Results are the authors' (protocol atrc), not measured here. nyud: semseg mIoU % / depth RMSE m / normals mean "
    "error ° / edge odsF %; pascal: semseg mIoU % / parts mIoU % / saliency maxF % / normals mean error ° / edge "
    "odsF %. DeMTG and DeGMix share rows and files; a file tells which of the two it holds."
)


def _table(names: list[str], details: bool) -> Table:
    from rich.progress import track
    from rich.table import Table

    from demt.factory import weights_of
    from demt.registry import split_name
    from demt.tasks import DATASETS

    # A further tag of a data set, for weights of another training, has a line of its own.
    lines: dict[str, dict[str, str]] = {}
    for name in names:
        arch, tag = split_name(name)
        lines.setdefault(arch if tag in DATASETS else name, {})[tag.partition("_")[0]] = name
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    # The data sets that models have tags for.
    datasets = [d for d in DATASETS if any(d in tags for tags in lines.values())]
    for column in ("M params", "GMACs", "at") if details else ():
        table.add_column(column, justify="right", no_wrap=True)
    # Beside the costs, a column for every data set would not fit 80 columns.
    for column in ["weights"] if details else datasets:
        table.add_column(column)
    for line in track(lines, "Counting", console=errors, transient=True, disable=not (details and errors.is_terminal)):
        tags = lines[line]
        marks = {d: _mark(weights_of(tags[d])) if d in tags else "" for d in datasets}
        if details:
            places = {mark: " ".join(d for d in datasets if marks[d] == mark) for mark in marks.values() if mark}
            told = " ".join(f"{mark} {names}" for mark, names in places.items())
            table.add_row(line, *_costs(next(iter(tags.values()))), told)
        else:
            table.add_row(line, *marks.values())
    return table


def _pretrained_table(names: list[str]) -> Table:
    from rich.table import Table

    from demt.factory import weights_of
    from demt.released.tables import published

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("published results")
    table.add_column("weights")
    for name in names:
        if (weights := weights_of(name)) is not None:
            row = published(name)
            table.add_row(name, results(row.results) if row else "", _mark(weights))
    return table


def results(values: Mapping[str, float]) -> str:
    """Published values as the papers' tables give them: 47.20 / 0.566 / 20.15 / 77.2."""
    return " / ".join(f"{value:g}" for value in values.values())


def _mark(weights: Weights | None) -> str:
    if weights is None:
        return ""
    if weights.here:
        return "[green]here[/green]"
    return "[cyan]hub[/cyan]" if weights.place == "hub" else "[yellow]fetch[/yellow]"


def _record(name: str, details: bool) -> dict[str, Any]:
    """What there is to say of a model, for programs."""
    from demt.factory import weights_of
    from demt.inference.cost import count_multiply_adds, count_parameters
    from demt.registry import get_config
    from demt.released.tables import published

    weights, row = weights_of(name), published(name)
    record: dict[str, Any] = {"name": name, "weights": weights and dataclasses.asdict(weights)}
    record["published"] = dict(row.results) if row else None
    if details:
        config, cfg = get_config(name)
        size = cfg.input_size[1:]
        record |= {"parameters": count_parameters(config), "multiply_adds": count_multiply_adds(config, size)}
        record["size"] = list(size)
    return record


def _costs(name: str) -> tuple[str, str, str]:
    from demt.inference.cost import count_multiply_adds, count_parameters
    from demt.registry import get_config

    config, cfg = get_config(name)
    _, height, width = cfg.input_size
    count = count_multiply_adds(config, (height, width))
    return f"{count_parameters(config) / 1e6:.2f}", f"{count / 1e9:.2f}", f"{height}x{width}"
