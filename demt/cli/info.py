"""`demt info`: what a model is, what it costs, what was published for it, and where its weights are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demt.cli.common import console, friendly_errors

if TYPE_CHECKING:
    from rich.table import Table

    from demt.config import ModelConfig, PretrainedCfg
    from demt.released.tables import Published


def info(
    name: Annotated[str, typer.Argument(help="A model's name, with or without data set, or a saved model's folder.")],
) -> None:
    """Show what a model is, what it costs, what was published for it, and where its weights are."""
    with friendly_errors():
        from demt.hub.folder import CONFIG, read_config
        from demt.registry import full_name, get_config
        from demt.released.cache import fetched_folder
        from demt.released.tables import published

        if (Path(name) / CONFIG).is_file():
            config, cfg = read_config(Path(name) / CONFIG)
            row, weights = None, {"Weights": "in this folder"}
        else:
            name = full_name(name)
            config, cfg = get_config(name)
            row, weights = published(name), _weights(name)
            if (folder := fetched_folder(name)) is not None:
                config, _ = read_config(folder / CONFIG)
        console.print(f"[bold]{name}[/bold]", highlight=False, soft_wrap=True)
        console.print(_facts({**_figures(config, cfg, row), **weights}))
        console.print()
        console.print(_tasks(config, row))
        console.print()
        console.print(_footnotes(row), style="dim", highlight=False)


def _figures(config: ModelConfig, cfg: PretrainedCfg, row: Published | None) -> dict[str, str]:
    from demt.inference.cost import count_multiply_adds, count_parameters

    _, height, width = cfg.input_size
    parameters = f"{count_parameters(config) / 1e6:.2f} M"
    cost = f"{count_multiply_adds(config, (height, width)) / 1e9:.2f} G multiply-adds an image"
    return {
        "Family": f"{config.family}{_decoder(config)}",
        "Backbone": config.backbone,
        "Image size": f"{height} x {width}, any size works"
        + (f"; shrunk to {cfg.max_size} pixels" if cfg.max_size else ""),
        "Parameters": parameters + (f" (published: {row.parameters:g} M)" if row and row.parameters else ""),
        "Cost": cost + (f" (published: {row.gflops:g} G)" if row and row.gflops else ""),
    }


def _facts(facts: Mapping[str, str]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for label, value in facts.items():
        table.add_row(label, value)
    return table


def _decoder(config: ModelConfig) -> str:
    if config.family == "multitask_baseline":
        return ": neck and heads only"
    gating = ", gating" if config.gating else ""
    return f", mixer depth {config.depth}, {config.interaction} interaction, {config.query} query{gating}"


def _tasks(config: ModelConfig, row: Published | None) -> Table:
    from rich.table import Table

    from demt.released.tables import MEASURES

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "channels", "prediction", *(("metric", "published") if row and row.results else ())):
        table.add_column(column, justify="right" if column in ("channels", "published") else "left")
    for name, task in config.tasks.items():
        cells = [name, str(task.channels), _PREDICTIONS[task.activation] + (f" in {task.unit}" if task.unit else "")]
        if row and row.results:
            metric, unit = MEASURES[name]
            cells += [f"{metric}, {unit}", f"{row.results[name]:g}" if name in row.results else "-"]
        table.add_row(*cells)
    return table


_PREDICTIONS = {
    "argmax": "class ids",
    "foreground": "probability",
    "sigmoid": "probability",
    "unit": "unit vectors",
    "identity": "values",
}


def _weights(name: str) -> dict[str, str]:
    from demt.hub.availability import weights_of

    weights = weights_of(name)
    if weights is None:
        return {"Weights": "none yet; demt.create_model makes random ones"}
    if weights.here:
        return {"Weights": f"{weights.address}, on this machine", **_deviations(name)}
    if weights.place == "hub":
        return {"Weights": f"{weights.address}, downloaded when first used"}
    return {"Weights": f"with the authors; to get them: demt fetch {name}", "Their file": weights.address}


def _deviations(name: str) -> dict[str, str]:
    """Where a fetched model is not built as its name says."""
    from demt.hub.folder import CONFIG, read_config
    from demt.released.cache import fetched_folder

    if (folder := fetched_folder(name)) is None:
        return {}
    from demt.released.fetch import deviations

    found = deviations(read_config(folder / CONFIG)[0], name)
    return {"Differs": "; ".join(found)} if found else {}


def _footnotes(row: Published | None) -> str:
    from demt.released.tables import PROTOCOL

    notes = [
        "Multiply-adds: convolutions, matrix products, attention and sampling as computed here, where the same outputs "
        "take fewer than in the released code."
    ]
    if row and row.results:
        shared = f" They give one row for {' and '.join(row.names)}." if len(row.names) > 1 else ""
        notes.append(f"Published: {row.label}, by its authors (protocol {PROTOCOL}), not measured here.{shared}")
    return "\n".join(notes)
