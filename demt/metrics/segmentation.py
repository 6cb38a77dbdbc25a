"""Mean intersection over union."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from demt.labels import label_map
from demt.metrics.base import DenseMetric
from demt.metrics.functional.segmentation import Absent, confusion_matrix, iou_per_class, mean_iou


class MeanIoU(DenseMetric):
    """Mean intersection over union of class maps, from one confusion matrix over the whole data set.

    Args:
        num_classes: C.
        absent: A class that neither labels nor predictions hold counts as 0 (``"zero"``, the published protocol) or is
            left out of the mean (``"skip"``, as torchmetrics does).
        ignore_index: Label of pixels to leave out.
        validate: Check shapes and class ids in `update`.

    Example:
        >>> import torch
        >>> metric = MeanIoU(num_classes=2)
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 0]]]))
        >>> metric.compute(), metric.per_class()
        (tensor(0.5000), tensor([0.5000, 0.5000]))
    """

    higher_is_better = True
    confusion: Tensor

    def __init__(
        self, num_classes: int, *, absent: Absent = "zero", ignore_index: int = 255, validate: bool = True
    ) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        if num_classes < 1:
            raise ValueError(f"Expected `num_classes` >= 1, got {num_classes}")
        if absent not in get_args(Absent):
            raise ValueError(f"Expected `absent` to be one of {get_args(Absent)}, got {absent!r}")
        self.num_classes = num_classes
        self.absent: Absent = absent
        self._add_sum("confusion", num_classes, num_classes)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images.

        Args:
            preds: Class ids (B, H, W).
            target: Class ids (B, H, W) or (B, 1, H, W).

        Raises:
            ValueError: for shapes that differ, floating-point predictions, or ids out of range.
        """
        target = label_map(target)
        self._check(preds, target, limits=(0, self.num_classes - 1), whole=True)
        if preds.is_floating_point():
            raise ValueError(f"Expected `preds` to be class ids (integers), got {preds.dtype}; take the argmax first")
        if self.validate and preds.numel() and not 0 <= int(preds.min()) <= int(preds.max()) < self.num_classes:
            raise ValueError(
                f"Expected `preds` in [0, {self.num_classes - 1}], got {int(preds.min())} to {int(preds.max())}"
            )
        self.confusion += confusion_matrix(preds, target, num_classes=self.num_classes, ignore_index=self.ignore_index)

    def compute(self) -> Tensor:
        """Mean over classes, in [0, 1]."""
        self._check_not_empty(self.confusion.sum())
        return mean_iou(self.confusion, absent=self.absent)

    def per_class(self) -> Tensor:
        """Intersection over union of each class, (C,), over all processes; NaN for absent classes."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            return iou_per_class(self.confusion)
