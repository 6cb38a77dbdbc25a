"""A model in a few lines, for people at a prompt or in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from demt.models.model import MultiTaskModel

_GIVES = {
    "argmax": "class ids",
    "foreground": "probability",
    "sigmoid": "probability",
    "unit": "unit vectors",
    "identity": "values",
}
_COLUMNS = ("part", "channels", "gives", "parameters")


def as_text(model: MultiTaskModel) -> str:
    """Title and table as plain text."""
    first, *others = titles(model)
    table = [_COLUMNS, *rows(model)]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths[:3])), row[3].rjust(widths[3])])
        for row in table
    ]
    return "\n".join([f"{first}(", *(f"  {line}" for line in [*others, *lines]), ")"])


def as_html(model: MultiTaskModel) -> str:
    """Title and table as HTML."""
    first, *others = titles(model)
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(model))
    about = "<br>".join(map(escape, others))
    return f"<p><b>{escape(first)}</b><br>{about}</p><table><tr>{head}</tr>{body}</table>"


def titles(model: MultiTaskModel) -> list[str]:
    """The class, and lines that say what the model is and what it learnt from."""
    config, cfg = model.config, model.pretrained_cfg
    like = next(model.parameters())
    size = f"longer side {cfg.max_size} pixels" if cfg.max_size else "their own size"
    return [
        type(model).__name__,
        f"{config.family} on {config.backbone}, {_count(model)} parameters, {like.dtype}, {like.device}".replace(
            "torch.", ""
        ),
        f"trained on: {cfg.trained_on or 'not stated'}; images run at {size}",
    ]


def rows(model: MultiTaskModel) -> list[tuple[str, str, str, str]]:
    """Backbone, what tasks share, and each task with what is its own: name, channels, what it gives, parameters."""
    head = model.head
    names = ("heads", *head.task_modules(), "encoders", "refinements")
    own = [getattr(head, name) for name in names if hasattr(head, name)]
    tasks = []
    for name, task in model.tasks.items():
        gives = _GIVES[task.activation] + (f" ({task.unit})" if task.unit else "")
        tasks.append((name, str(task.channels), gives, _count(*(modules[name] for modules in own if name in modules))))
    shared = [module for module in head.children() if all(module is not modules for modules in own)]
    return [
        ("backbone", "", "", _count(model.backbone)),
        ("shared by tasks", "", "", _count(*shared)),
        *tasks,
    ]


def _count(*modules: nn.Module) -> str:
    return f"{sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6:.2f} M"
