"""Averages at test time: an image mirrored and in several sizes, each task averaged according to its meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from demt.data.encoding import Encoding
from demt.inference.blend import as_ids, blendable, certainty, finish, largest
from demt.inference.forward import finite_logits
from demt.inference.preprocess import fitted_size, prepare
from demt.models import MultiTaskModel
from demt.ops.resize import resize
from demt.tasks import Task

TTA: TypeAlias = "Literal['flip'] | Sequence[float | Literal['flip']]"
Maps: TypeAlias = "dict[str, NDArray[Any]]"
#: Factors of an image's size; beyond, an image of a phone would fill the memory, or have no pixel left.
_SMALLEST, _LARGEST = 0.1, 4.0


@dataclasses.dataclass(frozen=True)
class Views:
    """How an image is shown to the network: at these scales, as it is, and mirrored if `flip`."""

    scales: tuple[float, ...]
    flip: bool


def as_views(tta: TTA) -> Views:
    """Views from what a user writes: ``"flip"``, scales such as ``[0.75, 1, 1.25]``, or both, ``["flip", 0.75, 1]``.

    Raises:
        ValueError: for anything else.
    """
    items: Any = [tta] if isinstance(tta, str) else tta
    wrong = not isinstance(items, (list, tuple)) or not items
    scales = [] if wrong else [item for item in items if not isinstance(item, str)]
    names = [] if wrong else [item for item in items if isinstance(item, str)]
    wrong = wrong or any(name != "flip" for name in names) or len(set(items)) != len(items)
    if wrong or not all(
        isinstance(s, (int, float)) and not isinstance(s, bool) and _SMALLEST <= s <= _LARGEST for s in scales
    ):
        raise ValueError(
            f"Expected `tta` to be 'flip', a list of different scales from {_SMALLEST} to {_LARGEST:g} such as "
            f"[0.75, 1, 1.25], or both, ['flip', 0.75, 1, 1.25], got {tta!r}"
        )
    return Views(tuple(map(float, scales)) or (1.0,), bool(names))


@torch.inference_mode()
def predict_averaged(
    model: MultiTaskModel, images: Sequence[Tensor], views: Views, max_size: int | None, confident: bool
) -> list[tuple[Maps, Maps]]:
    """Predictions, and confidences if `confident`, of images (C, H, W) of which `fitted_size` is one.

    A mirrored image's views are the image's own, in the other order, and the sum of two numbers is the same in both:
    its prediction is the mirrored one to the last bit.
    """
    height, width = fitted_size(tuple(images[0].shape[-2:]), max_size)
    pairs = []
    for scale in views.scales:
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        # One batch for each view: what else is in a batch can change the last bits.
        pairs.append([_run(model, images, mirrored, size) for mirrored in ((False, True) if views.flip else (False,))])
    results = []
    for row, image in enumerate(images):
        maps, sure = {}, {}
        for name, task in model.tasks.items():
            seen = [[view[name][row : row + 1] for view in pair] for pair in pairs]
            maps[name], certain = _average(task, seen, views.scales, tuple(image.shape[-2:]))
            if confident and certain is not None:
                sure[name] = certain
        results.append((maps, sure))
    return results


def _run(model: MultiTaskModel, images: Sequence[Tensor], mirrored: bool, size: tuple[int, int]) -> dict[str, Tensor]:
    inputs = []
    for image in images:
        shown = (image.flip(-1) if mirrored else image)[None]
        if tuple(image.shape[-2:]) != size:
            shown = F.interpolate(shown, size=size, mode="bilinear", align_corners=False, antialias=True)
        inputs.append(prepare(model, shown[0], None))
    logits = finite_logits(model, torch.cat(inputs))
    classes = {name for name, task in model.tasks.items() if task.activation == "argmax"}
    return {name: blendable(model.tasks[name], maps) if name in classes else maps for name, maps in logits.items()}


def _average(
    task: Task, seen: list[list[Tensor]], scales: Sequence[float], size: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """A task's mean prediction at an image's size, and its confidence, from the maps of all views by scale."""
    if task.activation == "argmax":
        return _average_classes(task, seen, size)
    values = [
        [
            _as_unscaled(task, _as_unmirrored(task, blendable(task, resize(maps.float(), size)), bool(side)), scale)
            for side, maps in enumerate(pair)
        ]
        for pair, scale in zip(seen, scales)
    ]
    mean = _mean(values)
    spread = _mean([[(one - mean) ** 2 for one in pair] for pair in values]).sqrt()
    sure = certainty(task, mean)
    if sure is None:
        sure = _agreement(task, mean, spread)
    prediction = finish(task, mean[0]).cpu().numpy()
    return prediction, None if sure is None else sure.reshape(-1, *size).squeeze(0).float().cpu().numpy()


def _average_classes(
    task: Task, seen: list[list[Tensor]], size: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The class of the largest mean probability, one class at a time: all of them at full size may not fit."""

    def score(index: int) -> Tensor:
        """Mean probability (H, W) of a class."""
        one = slice(index, index + 1)
        return _mean(
            [
                [_as_unmirrored(task, resize(maps[:, one], size), bool(side)) for side, maps in enumerate(pair)]
                for pair in seen
            ]
        )[0, 0]

    ids, best = largest(score, task.channels)
    return as_ids(ids, task.channels), best.cpu().numpy()


def _mean(values: list[list[Tensor]]) -> Tensor:
    """Of all views; those of one scale first, so that their order does not matter."""
    total = sum(sum(pair[1:], start=pair[0]) for pair in values)
    return total / sum(map(len, values))  # type: ignore[return-value]


def _as_unmirrored(task: Task, values: Tensor, mirrored: bool) -> Tensor:
    """What a mirrored image's map (B, K, H, W) says of the image: normals turn, as in training."""
    if not mirrored:
        return values
    values = values.flip(-1)
    if Encoding().kind_for(task) == "normals":
        values[:, 0] *= -1
    return values


def _as_unscaled(task: Task, values: Tensor, scale: float) -> Tensor:
    """What an enlarged image's map says of the image: depth looks smaller there, as in training, disparity larger."""
    if Encoding().kind_for(task) != "depth":
        return values
    return values / scale if task.unit == "px" else values * scale


def _agreement(task: Task, mean: Tensor, spread: Tensor) -> Tensor | None:
    """How far views agree on normals and depth, in [0, 1], (B, 1, H, W)."""
    kind = Encoding().kind_for(task)
    if kind == "normals":
        return mean.norm(dim=1, keepdim=True).clamp_max(1)
    return mean.abs() / (mean.abs() + spread).clamp_min(1e-12) if kind == "depth" else None
