"""Label maps: which pixels carry a label, and checks that logits and labels fit together.

Losses and metrics share these rules. A pixel is unlabelled when any channel of its label equals the ignore index, or
its normal is the zero vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from demt.ops.resize import resize
from demt.tasks import Task, is_class_map

#: How far a normal's length may be from 1: more than rounding and resizing make of it, less than a wrong encoding does.
_LENGTH = 0.5


class NoLabelsError(ValueError):
    """There is no labelled pixel or image to compute a metric from."""


def label_map(target: Tensor) -> Tensor:
    """Drop the channel of a one-channel label map: (B, 1, H, W) or (B, H, W) to (B, H, W).

    Raises:
        ValueError: for any other shape.
    """
    if target.ndim == 4 and target.shape[1] == 1:
        return target[:, 0]
    if target.ndim != 3:
        raise ValueError(f"Expected `target` of shape (B, H, W) or (B, 1, H, W), got {tuple(target.shape)}")
    return target


def valid_mask(target: Tensor, ignore_index: int = 255) -> Tensor:
    """Labelled pixels, (B, H, W) bool, of a map (B, H, W) or (B, C, H, W).

    Example:
        >>> valid_mask(torch.tensor([[[0.5, 255.0]]]))
        tensor([[[ True, False]]])
    """
    valid = target != ignore_index
    return valid.all(1) if target.ndim == 4 else valid


def labelled_mask(task: Task, target: Tensor) -> Tensor:
    """Labelled pixels, (B, H, W) bool, of a task's map; the zero vector is no direction."""
    valid = valid_mask(target, task.ignore_index)
    return valid & (target != 0).any(1) if task.activation == "unit" else valid


def check_ignore_index(task: Task) -> None:
    """Raise `ValueError` where the default ignore index is one of a task's many classes, which would never count."""
    if task.activation == "argmax" and task.ignore_index == 255 and task.channels > 255:
        raise ValueError(
            f"Task {task.name!r}: 255 marks pixels without label and is one of its {task.channels} classes; declare it "
            "with another `ignore_index`, such as 65535, and mark such pixels with that"
        )


def resize_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Upsample logits (B, C, h, w) to the labels' height and width (bilinear, ``align_corners=False``).

    Raises:
        ValueError: if the logits are larger than the labels: a label must not be compared with a shrunk prediction.
    """
    size = target.shape[-2:]
    if logits.shape[-2] > size[0] or logits.shape[-1] > size[1]:
        raise ValueError(
            f"Expected logits no larger than the labels, got logits {tuple(logits.shape)} for labels "
            f"{tuple(target.shape)}; crop the logits to the image, or give the labels at full size"
        )
    return resize(logits, size)


def drop_images_without_foreground(target: Tensor, ignore_index: int = 255) -> Tensor:
    """Mark every pixel of an image as ignored when no pixel of it has a class other than 0.

    A data set of people's parts says nothing about an image without annotated people: its zeros mean "not annotated".

    Example:
        >>> drop_images_without_foreground(torch.tensor([[[0, 0]], [[0, 3]]])).tolist()
        [[[255, 255]], [[0, 3]]]
    """
    foreground = ((target != 0) & (target != ignore_index)).flatten(1).any(1)
    return torch.where(foreground.view(-1, *[1] * (target.ndim - 1)), target, ignore_index)


def check_shapes(task: Task, logits: Tensor, target: Tensor) -> None:
    """Check what needs no value of a tensor: ranks, channels, batch sizes, dtypes.

    Raises:
        ValueError: naming the task, what was expected and what was given.
    """
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        raise ValueError(
            f"Task {task.name!r}: expected tensors as logits and labels, got {type(logits).__name__} and "
            f"{type(target).__name__}"
        )
    if logits.ndim != 4 or logits.shape[1] != task.channels:
        raise ValueError(
            f"Task {task.name!r}: expected logits of shape (B, {task.channels}, H, W), got {tuple(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise ValueError(f"Task {task.name!r}: expected floating-point logits, got {logits.dtype}")
    channels = 1 if is_class_map(task) else task.channels
    shapes = f"(B, {channels}, H, W)" + (" or (B, H, W)" if channels == 1 else "")
    if not ((target.ndim == 4 and target.shape[1] == channels) or (target.ndim == 3 and channels == 1)):
        raise ValueError(f"Task {task.name!r}: expected labels of shape {shapes}, got {tuple(target.shape)}")
    if target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"Task {task.name!r}: logits hold {logits.shape[0]} images but labels {target.shape[0]}; "
            f"give an image without a label a map full of {task.ignore_index}"
        )
    if target.dtype == torch.bool or target.is_complex():
        raise ValueError(f"Task {task.name!r}: expected integer or floating-point labels, got {target.dtype}")
    if target.device != logits.device:
        raise ValueError(f"Task {task.name!r}: logits are on {logits.device} but labels on {target.device}")


def value_summary(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """Five numbers on the tensors' device, to read many tasks' in one transfer; `check_summary` judges them.

    Returns:
        (5,): lowest and highest valid label, whether labels are whole numbers, whether the logits of all images that
        have a label are finite, and how far the length of a normal is from 1 at most.
    """
    target = target.detach()
    valid = valid_mask(target, task.ignore_index)
    labels = torch.where(valid if target.ndim == 3 else valid[:, None], target, 0)
    if labels.numel() == 0:
        return torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0], device=logits.device)
    low, high = labels.aminmax()
    whole = (labels == labels.round()).all() if is_class_map(task) and labels.is_floating_point() else low == low
    finite = (logits.detach().isfinite().flatten(1).all(1) | ~valid.flatten(1).any(1)).all()
    off = torch.zeros((), device=logits.device)
    if task.activation == "unit":
        off = length_error(target, labelled_mask(task, target))
    return torch.stack([value.to(torch.float32) for value in (low, high, whole, finite, off)])


def length_error(target: Tensor, labelled: Tensor) -> Tensor:
    """How far the length of a labelled vector of a map (B, C, H, W) is from 1 at most."""
    return torch.where(labelled, target.float().norm(dim=1) - 1, 0).abs().amax()


def check_length(where: str, off: float, ignore_index: int) -> None:
    """Raise `ValueError` for what `length_error` found in labels that are not unit vectors."""
    if not off <= _LENGTH:
        raise ValueError(
            f"{where}: a normal's length is {off:.2g} away from 1; expected unit vectors, or {ignore_index} or zeros "
            "where there is no label"
        )


def join_summaries(first: Tensor, second: Tensor) -> Tensor:
    """The summary of two batches."""
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return torch.stack([low[0], high[1], low[2], low[3], high[4]])


def check_summary(task: Task, summary: list[float]) -> None:
    """Judge what `value_summary` found.

    Raises:
        ValueError: for a label out of range, a class id that is not a whole number, a normal that is far from a unit
            vector, or logits that are not finite.
    """
    low, high, whole, finite, off = summary
    if not finite:
        raise ValueError(f"Task {task.name!r}: logits hold NaN or infinite values")
    limits = {"argmax": task.channels - 1, "foreground": 1, "sigmoid": 1, "unit": 1.001}
    bottom, top = (-1.001 if task.activation == "unit" else 0), limits.get(task.activation)
    if top is None:
        top = torch.finfo(torch.float32).max
        bottom = 0 if task.metric == "depth" else -top
    for value in (low, high):
        if not bottom <= value <= top:
            expected = "finite" if bottom else "finite and >= 0"
            if task.activation in limits:
                expected = f"in [{bottom:g}, {top:g}]"
            raise ValueError(
                f"Task {task.name!r}: label {value:g} found; expected labels {expected}, or {task.ignore_index} where "
                f"there is no label"
            )
    check_length(f"Task {task.name!r}", off, task.ignore_index)
    if not whole:
        raise ValueError(f"Task {task.name!r}: class labels must be whole numbers; was the label map interpolated?")
