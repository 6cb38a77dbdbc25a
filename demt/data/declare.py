"""Tasks and encodings of own data as one line of text: the syntax of command lines and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from demt.tasks import BUILTIN, Task

#: Own tasks by what their labels are: activation, loss and metric.
KINDS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "classes": {"activation": "argmax", "loss": "cross_entropy", "metric": "miou"},
        "values": {"activation": "identity", "loss": "l1", "metric": "rmse"},
        "boundary": {"activation": "sigmoid", "loss": "balanced_bce", "metric": "boundary"},
        "normals": {"activation": "unit", "loss": "normals_l1", "metric": "normals"},
    }
)


def parse_tasks(text: str) -> dict[str, int | Task | Mapping[str, Any]]:
    """Tasks of a text, for `demt.tasks.resolve_tasks`.

    ``semseg=5`` gives the number of classes, other built-in tasks need none. Own tasks say what their labels are:
    ``defect=4:classes``, ``height=1:values``, ``crack=1:boundary``, ``tilt=3:normals``.

    Raises:
        ValueError: for another form, an unknown kind, or a task without its number of channels.

    Example:
        >>> tasks = parse_tasks("semseg=5,depth,height=1:values")
        >>> tasks["semseg"], tasks["depth"], tasks["height"].metric
        (5, 1, 'rmse')
    """
    tasks: dict[str, int | Task | Mapping[str, Any]] = {}
    for name, value in parse_pairs("tasks", text).items():
        count, colon, kind = (value or "").partition(":")
        if colon and kind not in KINDS:
            raise ValueError(f"Expected the kind of task {name!r} to be one of {list(KINDS)}, got {kind!r}")
        if value is None and name in BUILTIN and BUILTIN[name].activation != "argmax":
            count = str(BUILTIN[name].channels)
        if value is None and not count:
            raise ValueError(f"Expected the number of classes of {name!r} in `tasks`, such as {name}=5")
        if not count.isdecimal():
            raise ValueError(f"Expected a number of classes in `tasks`, such as {name}=5, got {name}={value}")
        if not colon and name not in BUILTIN:
            raise ValueError(
                f"Unknown task {name!r}: say what its labels are, one of {list(KINDS)}: {name}={count}:classes"
            )
        tasks[name] = Task(name=name, channels=int(count), **KINDS[kind]) if colon else int(count)
    return tasks


def parse_pairs(what: str, text: str) -> dict[str, str | None]:
    """``name=value,name=value``, the values being optional.

    Raises:
        ValueError: for another form, or a name that stands twice.
    """
    pairs: dict[str, str | None] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or name in pairs or (equals and not value):
            raise ValueError(f"Expected `{what}` as name=value,name=value with each name once, got {text!r}")
        pairs[name] = value if equals else None
    return pairs
