"""`demt info`: what a model is, what it costs, what was published for it, and where its weights are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from demt.cli.common import AsJson, console, friendly_errors, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from demt.config import ModelConfig, PretrainedCfg
    from demt.factory import Resolved, Weights
    from demt.released.tables import Published


def info(
    name: Annotated[str, typer.Argument(help="A model's name, with or without data set, or a saved model's folder.")],
    as_json: AsJson = False,
) -> None:
    """Show what a model is, what it costs, what was published for it, and where its weights are."""
    with friendly_errors():
        from demt.factory import resolve
        from demt.models.variants import SCORES
        from demt.registry import full_name
        from demt.released.tables import published

        name = full_name(name)
        found = resolve(name)
        config, row, scores = found.config, published(name), SCORES.get(name)
        facts = _weights(name, found.weights)
        if found.weights is not None and found.pretrained_cfg.trained_on:
            facts["Trained on"] = found.pretrained_cfg.trained_on
        if (fetched := _fetched(found)) is not None:
            config, facts = fetched, {**facts, **_deviations(fetched, name)}
        if as_json:
            print_json(_record(name, config, found, row, scores, facts))
            return
        console.print(name, style="bold", highlight=False, soft_wrap=True, markup=False)
        console.print(_facts({**_figures(config, found.pretrained_cfg, row), **facts}))
        console.print()
        console.print(_tasks(config, row, scores))
        console.print()
        console.print(_footnotes(row, scores), style="dim", highlight=False)


def _figures(config: ModelConfig, cfg: PretrainedCfg, row: Published | None) -> dict[str, str]:
    from demt.inference.cost import count_multiply_adds, count_parameters

    _, height, width = cfg.input_size
    parameters = f"{count_parameters(config) / 1e6:.2f} M"
    cost = f"{count_multiply_adds(config, (height, width)) / 1e9:.2f} G multiply-adds per image"
    return {
        "Family": f"{config.family}{_decoder(config)}",
        "Backbone": config.backbone,
        "Image size": f"{height} x {width}, any size works"
        + (f"; shrunk to {cfg.max_size} pixels" if cfg.max_size else ""),
        "Parameters": parameters + (f" (published: {row.parameters:g} M)" if row and row.parameters else ""),
        "Cost": cost + (f" (published: {row.gflops:g} G)" if row and row.gflops else ""),
    }


def _record(
    name: str,
    config: ModelConfig,
    found: Resolved,
    row: Published | None,
    scores: Mapping[str, float] | None,
    facts: Mapping[str, str],
) -> dict[str, Any]:
    """The same for programs: counts as numbers, and the configuration."""
    from demt.inference.cost import count_multiply_adds, count_parameters

    cfg = found.pretrained_cfg
    return {
        "name": name,
        "config": config.to_dict(),
        "preprocessing": cfg.to_dict(),
        "parameters": count_parameters(config),
        "multiply_adds": count_multiply_adds(config, cfg.input_size[1:]),
        "weights": found.weights and dataclasses.asdict(found.weights),
        "differs": facts.get("Differs"),
        "published": dict(row.results) if row else None,
        "own_scores": dict(scores) if scores else None,
    }


def _facts(facts: Mapping[str, str]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for label, value in facts.items():
        table.add_row(label, escape(value))
    return table


def _decoder(config: ModelConfig) -> str:
    if not config.has_decoder:
        return ": neck and heads only"
    gating = ", gating" if config.gating else ""
    return f", mixer depth {config.depth}, {config.interaction} interaction, {config.query} query{gating}"


def _tasks(config: ModelConfig, row: Published | None, scores: Mapping[str, float] | None) -> Table:
    from rich.table import Table

    from demt.released.tables import MEASURES

    values = {heading: found for heading, found in (("published", row and row.results), ("own", scores)) if found}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "channels", "prediction", *(["metric"] if values else []), *values):
        table.add_column(column, justify="right" if column in ("channels", *values) else "left")
    for name, task in config.tasks.items():
        cells = [name, str(task.channels), _PREDICTIONS[task.activation] + (f" in {task.unit}" if task.unit else "")]
        if values:
            cells.append(", ".join(MEASURES.get(name, ("-",))))
            cells += [f"{found[name]:g}" if name in found else "-" for found in values.values()]
        table.add_row(*map(escape, cells))
    return table


_PREDICTIONS = {
    "argmax": "class ids",
    "foreground": "probability",
    "sigmoid": "probability",
    "unit": "unit vectors",
    "identity": "values",
}


def _weights(name: str, weights: Weights | None) -> dict[str, str]:
    if weights is None:
        return {"Weights": "none yet; demt.create_model starts from random ones"}
    if weights.place == "hub":
        where = "on this machine" if weights.here else "downloaded when first used"
        return {"Weights": f"https://huggingface.co/{weights.address.partition('@')[0]}, {where}"}
    if weights.here:
        return {"Weights": f"{weights.address}, on this machine"}
    return {"Weights": f"with the authors; to get them: demt fetch {name}", "Their file": weights.address}


def _fetched(found: Resolved) -> ModelConfig | None:
    """What a model that `demt fetch` got is built as; it may not be what its name says."""
    from demt.hub.folder import CONFIG, read_config

    weights = found.weights
    fetched = weights is not None and weights.here and weights.place == "authors"
    return read_config(Path(weights.address) / CONFIG)[0] if weights and fetched else None


def _deviations(config: ModelConfig, name: str) -> dict[str, str]:
    from demt.released.fetch import deviations

    differences = deviations(config, name)
    return {"Differs": "; ".join(differences)} if differences else {}


def _footnotes(row: Published | None, scores: Mapping[str, float] | None) -> str:
    from demt.released.tables import PROTOCOL

    notes = [
        "Multiply-adds: convolutions, matrix products, attention and sampling as computed here, where the same outputs "
        "take fewer than in the released code."
    ]
    if row and row.results:
        shared = f" They give one row for {' and '.join(row.names)}." if len(row.names) > 1 else ""
        notes.append(f"Published: {row.label}, by its authors (protocol {PROTOCOL}), not measured here.{shared}")
    if row and row.note:
        notes.append(row.note)
    if scores:
        notes.append("Own: on 300 synthetic rooms of 96 x 128 not used in training; see docs/weights.md.")
    return "\n".join(notes)
