"""Errors of surface normals."""

from __future__ import annotations

import torch
from torch import Tensor

from demt.labels import check_length, length_error, valid_mask
from demt.metrics.base import DenseMetric
from demt.metrics.functional.normals import angular_errors, median_from_histogram

#: Degrees below which a normal counts as good.
LIMITS = (11.25, 22.5, 30.0)
#: Width in degrees of the bins from which the median is read.
BIN_WIDTH = 0.01


class NormalsMetrics(DenseMetric):
    """Angle between predicted and true normals over all labelled pixels of a data set.

    `compute` returns ``mean`` and ``median`` in degrees and ``below_11.25``, ``below_22.5``, ``below_30``, the shares
    of pixels with a smaller angle. All are exact but the median, which is read from a histogram with bins of 0.01
    degrees, so that memory does not grow with the data set: it is within 0.005 degrees of the exact one.

    Args:
        ignore_index: Label of pixels to leave out.
        validate: Check shapes and values in `update`.

    Example:
        >>> metric = NormalsMetrics()
        >>> up, side = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> metric.update(side.view(1, 3, 1, 1), up.view(1, 3, 1, 1))
        >>> round(metric.compute()["mean"].item(), 3)
        90.0
    """

    higher_is_better = False
    angle_sum: Tensor
    histogram: Tensor
    below: Tensor

    def __init__(self, *, ignore_index: int = 255, validate: bool = True) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        self._add_sum("angle_sum", dtype=torch.float64)
        self._add_sum("histogram", round(180 / BIN_WIDTH))
        self._add_sum("below", len(LIMITS))

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images.

        Args:
            preds: Normals (B, 3, H, W) of any length.
            target: Unit normals (B, 3, H, W).

        Raises:
            ValueError: for shapes that differ, predictions that are not finite, or labels that are not unit vectors.
        """
        if preds.ndim != 4 or preds.shape[1] != 3:
            raise ValueError(f"Expected `preds` of shape (B, 3, H, W), got {tuple(preds.shape)}")
        self._check(preds, target, limits=(-1.001, 1.001))
        if self.validate and target.numel():
            labelled = valid_mask(target, self.ignore_index) & (target != 0).any(1)
            check_length("NormalsMetrics", float(length_error(target, labelled)), self.ignore_index)
        angles = angular_errors(preds, target, ignore_index=self.ignore_index, dtype=self.angle_sum.dtype)
        bins = (angles / BIN_WIDTH).long().clamp(0, len(self.histogram) - 1)
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))
        self.angle_sum = self.angle_sum + angles.sum()
        self.below = self.below + torch.stack([(angles < limit).sum() for limit in LIMITS])

    def compute(self) -> dict[str, Tensor]:
        """``mean``, ``median`` (degrees), ``below_11.25``, ``below_22.5``, ``below_30`` (shares)."""
        count = self.histogram.sum()
        self._check_not_empty(count)
        # An angle that is not finite, in unchecked predictions, is missing: so is all that would be made of it.
        missing = 0 * self.angle_sum
        shares = {f"below_{limit:g}": good / count + missing for limit, good in zip(LIMITS, self.below)}
        return {
            "mean": self.angle_sum / count,
            "median": median_from_histogram(self.histogram, width=BIN_WIDTH) + missing,
            **shares,
        }
