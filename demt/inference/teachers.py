"""Networks that label pictures for others: a demt model, an ONNX file, or a Python function, all used in one way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.data.declare import parse_tasks
from demt.data.images import read_image
from demt.factory import create_model
from demt.inference.blend import class_confidence
from demt.inference.forward import finite_logits, in_eval_mode, model_digest
from demt.inference.predict import at_size
from demt.inference.preprocess import prepare
from demt.models import MultiTaskModel
from demt.tasks import DATASETS, Task, TaskSpec, resolve_tasks

Pixels: TypeAlias = NDArray[np.uint8]
#: What a teacher says of a task: a map, or class ids and how sure it is of each.
Opinion: TypeAlias = "NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]"
Function: TypeAlias = Callable[[Pixels], Mapping[str, Opinion]]


class TeacherError(ValueError):
    """A teacher's output cannot become a label: that ends a run, unlike a picture that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A function from a picture to maps, and what has to be known of it.

    Attributes:
        tasks: The tasks that it has maps of.
        function: From pixels (H, W, 3) of uint8 to a map of each task at the picture's size. Class maps: class ids
            (H, W), 255 where there is none, or a pair of ids and of confidence (H, W) in [0, 1]. `sal`, `edge` and
            their like: probabilities (H, W). Other maps: (H, W), or (C, H, W) for several channels.
        about: What distinguishes it from another teacher.
    """

    tasks: dict[str, Task]
    function: Function
    about: dict[str, str]


def as_teacher(
    teacher: MultiTaskModel | Function | str | PathLike[str], tasks: TaskSpec | Iterable[str] | str | None = None
) -> Teacher:
    """A teacher from what a user passes.

    Args:
        teacher: A demt model or all that names one for `demt.create_model`, which then has its weights; the path of a
            ``.onnx`` file with a description beside it (see `demt.inference.onnx_teacher`); or a function, see
            `Teacher`.
        tasks: Of a model or file: the names of those to take, by default all. Of a function: what it gives, as for
            `demt.create_model` or as text, ``"edge,semseg=5"``.

    Raises:
        FileNotFoundError, ValueError: if there is no such teacher, or it lacks a task.
        ImportError: for an ONNX file, if onnxruntime is missing.
    """
    if isinstance(teacher, (str, PathLike)):
        if Path(teacher).suffix.lower() == ".onnx":
            from demt.inference.onnx_teacher import onnx_teacher

            return _with_tasks(onnx_teacher(Path(teacher)), tasks)
        teacher = create_model(str(teacher), pretrained=True).eval()
    if isinstance(teacher, MultiTaskModel):
        return _with_tasks(model_teacher(teacher), tasks)
    if not callable(teacher):
        raise ValueError(
            f"Expected `teacher` to be a model, its name, an ONNX file or a function, got {type(teacher).__name__}"
        )
    if tasks is None:
        raise ValueError("Say which maps the function gives as `tasks`, such as 'edge,semseg=5'")
    declared = parse_tasks(tasks) if isinstance(tasks, str) and tasks not in DATASETS else tasks
    name = f"{getattr(teacher, '__module__', '')}.{getattr(teacher, '__qualname__', type(teacher).__qualname__)}"
    return Teacher(resolve_tasks(declared), teacher, {"function": name})  # type: ignore[arg-type]


def model_teacher(model: MultiTaskModel) -> Teacher:
    """A demt model as a teacher; it runs at the size at which it was evaluated, as in `demt.predict`."""
    model = in_eval_mode(model)

    def function(pixels: Pixels) -> dict[str, Opinion]:
        image = read_image(pixels)
        with torch.inference_mode():
            logits = finite_logits(model, prepare(model, image, model.pretrained_cfg.max_size))
            return {name: _opinion(model.tasks[name], maps, tuple(image.shape[-2:])) for name, maps in logits.items()}

    return Teacher(dict(model.tasks), function, {"model": model_digest(model)})


def _opinion(task: Task, logits: Tensor, size: tuple[int, ...]) -> Opinion:
    values = at_size(task, logits, size)
    return (values, class_confidence(logits.float().softmax(1), values)) if task.activation == "argmax" else values


def _with_tasks(teacher: Teacher, tasks: Any) -> Teacher:
    if tasks is None:
        return teacher
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    if unknown := [name for name in names if name not in teacher.tasks]:
        raise ValueError(f"`tasks` names {unknown}, but the teacher has {list(teacher.tasks)}")
    return dataclasses.replace(teacher, tasks={name: task for name, task in teacher.tasks.items() if name in names})
