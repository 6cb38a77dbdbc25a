"""Batches of samples, with maps of 255 where a sample has no label for a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import TVTensor

from demt.data.tv_tensors import IGNORE
from demt.tasks import Task, is_class_map

Sample = dict[str, Any]


def collate(samples: Sequence[Sample], tasks: Mapping[str, Task] | None = None) -> Sample:
    """Put samples into a batch, as `collate_fn` of a ``DataLoader``.

    Args:
        samples: Samples with an image and any of the tasks' maps, all of the same size.
        tasks: Tasks that the batch has maps of, labelled or not; by default those that any of the samples has.
            `MultiTaskDataset.collate` gives those of the data set.

    Returns:
        Plain tensors: ``"image"`` (B, 3, H, W), a map (B, C, H, W) of each task, full of 255 where a sample has none;
        other entries, such as ``"id"``, as lists. Transform samples, not batches: torchvision would take a batch's
        labels for something it need not touch.

    Raises:
        ValueError: if sizes differ, naming the samples.

    Example:
        >>> labelled = {"image": torch.zeros(3, 2, 2), "sal": torch.ones(1, 2, 2, dtype=torch.uint8), "id": "a"}
        >>> batch = collate([labelled, {"image": torch.zeros(3, 2, 2), "id": "b"}])
        >>> batch["sal"][:, 0, 0, 0], batch["id"]
        (tensor([  1, 255], dtype=torch.uint8), ['a', 'b'])
    """
    names = dict.fromkeys(name for sample in samples for name in sample)
    batch: Sample = {"image": _stack(samples, "image", [sample["image"] for sample in samples])}
    height, width = batch["image"].shape[-2:]
    for name in dict.fromkeys([*(tasks or {}), *names]):
        values = [sample.get(name) for sample in samples]
        given = [value for value in values if value is not None]
        if name == "image":
            continue
        if given and not isinstance(given[0], Tensor):
            batch[name] = values
        elif given:
            # Torch has no common dtype of uint8 and float that keeps both; labels of a task have one dtype.
            like = given[0].as_subclass(torch.Tensor)
            batch[name] = _stack(samples, name, [torch.full_like(like, IGNORE) if v is None else v for v in values])
        else:
            task = (tasks or {})[name]
            classes = is_class_map(task)
            shape = (len(samples), 1 if classes else task.channels, height, width)
            batch[name] = torch.full(shape, IGNORE, dtype=torch.uint8 if classes else torch.float32)
    return batch


def _stack(samples: Sequence[Sample], name: str, values: list[Tensor]) -> Tensor:
    shapes = {tuple(value.shape): sample.get("id", "?") for sample, value in zip(samples, values)}
    if len(shapes) > 1:
        found = ", ".join(f"{shape} ({id})" for shape, id in shapes.items())
        raise ValueError(
            f"Expected maps {name!r} of one shape in a batch, got {found}; use a transform that crops and pads to one "
            "size (demt.data.transforms), or batches of one"
        )
    return torch.stack([v.as_subclass(torch.Tensor) if isinstance(v, TVTensor) else v for v in values])
