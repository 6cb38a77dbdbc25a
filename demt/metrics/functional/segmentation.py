"""Confusion matrix and mean intersection over union."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Absent = Literal["zero", "skip"]


def confusion_matrix(preds: Tensor, target: Tensor, *, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count labelled pixels by true class (row) and predicted class (column).

    Args:
        preds: Class ids of any shape.
        target: Class ids of the same shape; whole floating-point numbers will do.
        num_classes: C.
        ignore_index: Label of pixels to leave out.

    Returns:
        (C, C) int64. Ids must lie in 0..C-1: they are not checked here.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), num_classes=2)
        tensor([[1, 1],
                [0, 0]])
    """
    valid = target != ignore_index
    pairs = target[valid].long() * num_classes + preds[valid].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, (C,); NaN for a class that neither labels nor predictions hold."""
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return hits / union


def mean_iou(confusion: Tensor, *, absent: Absent = "zero") -> Tensor:
    """Mean over classes of the intersection over union, in [0, 1].

    Args:
        confusion: (C, C) counts over the whole data set.
        absent: A class that neither labels nor predictions hold counts as 0 (``"zero"``, the published protocol) or is
            left out of the mean (``"skip"``, as torchmetrics does).

    Example:
        >>> confusion = torch.tensor([[4, 0, 0], [0, 2, 0], [0, 0, 0]])
        >>> mean_iou(confusion), mean_iou(confusion, absent="skip")
        (tensor(0.6667), tensor(1.))
    """
    iou = iou_per_class(confusion)
    return iou.nanmean() if absent == "skip" else iou.nan_to_num(0).mean()
