"""Predictions before their last, discrete step: maps of which weighted means make sense.

Class maps and probabilities are blended as probabilities, where one map's say is bounded by its weight however large
its logits are; normals as unit vectors, as the length of what the network puts out has no meaning; other values as they
are. Tiles, averages at test time and the smoothing of videos all blend these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.ops.resize import resize
from demt.tasks import Task


def blendable(task: Task, logits: Tensor) -> Tensor:
    """Maps (B, K, H, W) of which weighted means make sense; overwrites the logits."""
    if task.activation == "argmax":
        # A softmax in place: another map of all classes would be the largest thing in memory.
        values = logits.float()
        values = values.sub_(values.amax(1, keepdim=True)).exp_()
        return values.div_(values.sum(1, keepdim=True))
    values = task.predict(logits)
    return values[:, None] if values.ndim == 3 else values


def finish(task: Task, mean: Tensor) -> Tensor:
    """The prediction that a mean (K, h, w) stands for."""
    if task.activation == "argmax":
        return mean.argmax(0)
    if task.activation == "unit":
        return task.predict(mean[None])[0]
    return mean[0] if len(mean) == 1 else mean


def argmax_at_size(scores: Tensor, size: tuple[int, ...]) -> NDArray[Any]:
    """Class of the largest upsampled score (1, K, h, w), one class at a time: all classes at full size may not fit."""
    if tuple(scores.shape[-2:]) == tuple(size):
        ids = scores.argmax(1)[0]
    else:
        ids, _ = largest(lambda index: resize(scores[:, index : index + 1].float(), size)[0, 0], scores.shape[1])
    return as_ids(ids, scores.shape[1])


def largest(score: Callable[[int], Tensor], classes: int) -> tuple[Tensor, Tensor]:
    """Which class has the largest score (H, W) at each pixel, and that score; one class at a time is in memory."""
    best = score(0)
    ids = torch.zeros(best.shape, dtype=torch.int32, device=best.device)
    for index in range(1, classes):
        current = score(index)
        ids[current > best] = index
        best = torch.maximum(best, current)
    return ids, best


def as_ids(ids: Tensor, classes: int) -> NDArray[Any]:
    """Class ids in the smallest type that holds them."""
    return ids.cpu().numpy().astype(np.uint8 if classes <= 256 else np.uint16)


def class_confidence(probabilities: Tensor, ids: NDArray[Any]) -> NDArray[np.float32]:
    """Probability of the classes (H, W) that were chosen, from those (1, K, h, w) of all: one class at a time."""
    chosen, found = torch.from_numpy(ids.astype(np.int64)), torch.zeros(ids.shape)
    for index in range(probabilities.shape[1]):
        values = resize(probabilities[:, index : index + 1], ids.shape)[0, 0].cpu()
        found = torch.where(chosen == index, values, found)
    return found.numpy()


def certainty(task: Task, values: Tensor) -> Tensor | None:
    """How sure blendable maps (B, K, H, W) are of each pixel, in [0, 1]; None where values say nothing of it.

    Class maps: the largest probability, (B, 1, H, W). Probabilities p: |2p - 1|, of their shape.
    """
    if task.activation == "argmax":
        return values.amax(1, keepdim=True)
    if task.activation in ("foreground", "sigmoid"):
        return (2 * values - 1).abs()
    return None
