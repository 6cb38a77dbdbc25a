"""From a teacher's output to labels: pixels that it is unsure of get none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demt.data.encoding import Encoding
from demt.data.tv_tensors import IGNORE
from demt.inference.teachers import Opinion, TeacherError
from demt.tasks import BUILTIN, Task, is_class_map


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What counts as sure; see `demt.inference.pseudo_label.pseudo_label`."""

    negative: float
    positive: float
    confidence: float
    soft: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.negative <= self.positive <= 1:
            raise ValueError(f"Expected 0 <= `negative` <= `positive` <= 1, got {self.negative} and {self.positive}")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"Expected `confidence` in [0, 1], got {self.confidence}")

    def keeps_probabilities(self, task: Task) -> bool:
        """Whether a task's labels are soft: those of boundaries can be."""
        return self.soft and task.activation == "sigmoid"


def how_stored(task: Task, thresholds: Thresholds) -> dict[str, Any]:
    """How to declare a task and its files for `demt.data.MultiTaskFolder`, and the thresholds that it has."""
    kind = {"sigmoid": "boundary", "unit": "normals", "identity": "values"}.get(task.activation, "classes")
    if task.name in BUILTIN:
        declared = f"{task.name}={task.channels}" if task.activation == "argmax" else task.name
    else:
        declared = f"{task.name}={task.channels}:{kind}"
    if is_class_map(task):
        # Of two classes, 255 might be the foreground.
        entry: dict[str, Any] = {"task": declared, "ending": ".png", "encoding": "classes" * (task.channels == 2)}
    elif task.activation == "sigmoid" and task.channels == 1:
        entry = {"task": declared, "ending": ".png", "encoding": "grey" if thresholds.soft else "values"}
    else:
        entry = {"task": declared, "ending": ".npy", "encoding": ""}
    if task.activation == "argmax":
        return {**entry, "confidence": thresholds.confidence}
    if thresholds.keeps_probabilities(task):
        return {**entry, "soft": True}
    if task.activation in ("foreground", "sigmoid"):
        return {**entry, "negative": thresholds.negative, "positive": thresholds.positive}
    return entry


def label(task: Task, opinion: Opinion, size: tuple[int, ...], thresholds: Thresholds) -> NDArray[Any]:
    """What is stored of a teacher's map of a task: uint8 maps with 255 where it is unsure, grey ones if soft, arrays.

    Raises:
        TeacherError: for another shape than the picture's, or values that the task cannot have.
    """
    if isinstance(opinion, tuple):
        opinion, certainty = opinion
    else:
        certainty = None
    values = np.asarray(opinion)
    channels = 1 if is_class_map(task) else task.channels
    expected = tuple(size) if channels == 1 else (channels, *size)
    values = values[0] if values.shape == (1, *size) and channels == 1 else values
    if values.shape != expected:
        raise TeacherError(f"expected the map of {task.name!r} to have the shape {expected}, got {values.shape}")
    if certainty is not None and np.shape(certainty) != expected:
        raise TeacherError(f"expected the confidence of {task.name!r} of shape {expected}, got {np.shape(certainty)}")
    if task.activation == "argmax":
        known = np.isin(values, [*range(task.channels), IGNORE])
        if not known.all():
            raise TeacherError(
                f"{values[~known][0]} is not a class of {task.name!r}, which has {task.channels} classes"
            )
        ids: NDArray[np.uint8] = values.astype(np.uint8)
        return (
            ids if certainty is None else np.where(np.asarray(certainty) < thresholds.confidence, np.uint8(IGNORE), ids)
        )
    finite = np.isfinite(values)
    if task.activation in ("foreground", "sigmoid"):
        if not finite.all() or values.min() < -1e-3 or values.max() > 1 + 1e-3:
            raise TeacherError(
                f"expected probabilities in [0, 1] of {task.name!r}, got {values.min():.4g} to {values.max():.4g}"
            )
        if thresholds.keeps_probabilities(task):
            soft = values.clip(0, 1)
            return np.rint(soft * 255).astype(np.uint8) if channels == 1 else soft.astype(np.float32).transpose(1, 2, 0)
        marks = np.full(values.shape, IGNORE, np.uint8)
        marks[values < thresholds.negative], marks[values > thresholds.positive] = 0, 1
        return marks if channels == 1 else marks.transpose(1, 2, 0)
    kind = Encoding().kind_for(task)
    stored: NDArray[np.floating[Any]] = np.where(finite, values, 0).astype(np.float32)
    valid = finite if channels == 1 else finite.all(0)
    if kind == "normals":
        length = np.linalg.norm(stored, axis=0)
        valid = valid & (length > 0)
        # Unit vectors are as good as their third decimal.
        stored = (stored / np.where(valid, length, 1)).astype(np.float16)
    if kind == "depth":
        valid = valid & (stored > 0)
    stored[..., ~valid] = {"normals": 0, "depth": np.nan}.get(kind, IGNORE)
    return stored if channels == 1 else stored.transpose(1, 2, 0)
