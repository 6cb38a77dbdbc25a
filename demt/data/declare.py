"""Tasks and encodings of own data, also as one line of text: the syntax of command lines and recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demt.data.encoding import ENCODINGS, Encoding
from demt.data.files import PICTURES, DataError, ending_of
from demt.data.tv_tensors import Label
from demt.tasks import BUILTIN, DATASETS, Task, TaskSpec, is_class_map, resolve_tasks

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


def own_tasks(tasks: TaskSpec | str) -> dict[str, Task]:
    """The tasks of own data, as `demt.create_model` takes them or as a text (see `parse_tasks`)."""
    return resolve_tasks(parse_tasks(tasks) if isinstance(tasks, str) and tasks not in DATASETS else tasks)


def own_encodings(
    tasks: Mapping[str, Task], encodings: Mapping[str, str | Encoding] | str | None
) -> dict[str, Encoding | None]:
    """The declared encoding of each task of own data; None where none is.

    Raises:
        ValueError: for an unknown encoding or task, or a task whose labels `demt.data` cannot hold.
    """
    if isinstance(encodings, str):
        encodings = {name: value or "" for name, value in parse_pairs("encodings", encodings).items()}
    declared = {name: _encoding(task, encodings or {}) for name, task in tasks.items()}
    if unknown := sorted(set(encodings or {}) - set(tasks)):
        raise ValueError(f"`encodings` names {unknown}, but `tasks` are {list(tasks)}")
    return declared


def _encoding(task: Task, encodings: Mapping[str, str | Encoding]) -> Encoding | None:
    if task.ignore_index != 255 or (is_class_map(task) and task.channels > 255):
        raise ValueError(
            f"Task {task.name!r}: expected `ignore_index` 255 and at most 255 classes, which is how demt.data marks "
            f"pixels without a label; got {task.ignore_index} and {task.channels}"
        )
    declared = encodings.get(task.name)
    if isinstance(declared, str):
        if declared not in ENCODINGS:
            raise ValueError(f"Unknown encoding {declared!r} of task {task.name!r}; known are {sorted(ENCODINGS)}")
        declared = ENCODINGS[declared]
    if declared is not None and (declared.ids or declared.colors) and not is_class_map(task):
        raise ValueError(f"The encoding of task {task.name!r} has `ids` or `colors`, but its labels are not classes")
    return declared


def read_declared(
    path: Path, task: Task, encoding: Encoding | None, contents: bytes | NDArray[Any] | None = None
) -> Label:
    """The label map (C, H, W) of a task of own data, whose encoding is declared or, where it need not be, is None.

    Args:
        path: The file.
        task: The task.
        encoding: See `own_encodings`.
        contents: See `Encoding.read`.

    Raises:
        DataError: naming the file, also where an encoding has to be declared.
    """
    if encoding is not None:
        return encoding.read(path, task, contents)
    if isinstance(contents, np.ndarray):
        ending = ".npy"
    else:
        ending = path.suffix.lower() if contents is None else ending_of(contents)
    if ending in PICTURES and not is_class_map(task):
        raise DataError(
            f"{str(path)!r}: a picture does not say what its values mean; declare "
            f"encodings={{{task.name!r}: ...}}, one of {sorted(ENCODINGS)} or an Encoding"
        )
    encoding = Encoding(invalid=(0, math.nan) if Encoding().kind_for(task) == "depth" else ())
    label = encoding.read(path, task, contents)
    # 255 is "no label" here and the foreground of a usual mask: a file that has no 1 does not tell which.
    if is_class_map(task) and task.channels == 2 and label.unique().tolist() == [0, 255]:
        raise DataError(
            f"{str(path)!r} holds only 0 and 255; declare encodings={{{task.name!r}: 'mask'}} if 255 is the "
            f"foreground, or {{{task.name!r}: 'classes'}} if it marks pixels without a label"
        )
    return label
