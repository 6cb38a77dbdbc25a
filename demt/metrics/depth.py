"""Depth errors, and the root mean square error of any regression map."""

from __future__ import annotations

import torch
from torch import Tensor

from demt.labels import label_map, valid_mask
from demt.metrics.base import DenseMetric
from demt.metrics.functional.depth import DepthSums, depth_errors, depth_sums


class DepthMetrics(DenseMetric):
    """Root mean square error, mean relative error and share of close depths, over all labelled pixels of a data set.

    `compute` returns ``rmse`` = √(Σ(p−g)²/n) in the labels' unit, ``abs_rel`` = ``Σ(|p−g|/g)/n``, and ``delta1``, the
    share of pixels with max(p/g, g/p) < 1.25.

    Args:
        ignore_index: Label of pixels to leave out. Missing depth must have this value, not 0.
        validate: Check shapes and values in `update`.

    Example:
        >>> metric = DepthMetrics()
        >>> metric.update(torch.tensor([[[1.0, 4.0]]]), torch.tensor([[[1.0, 2.0]]]))
        >>> round(metric.compute()["rmse"].item(), 4)
        1.4142
    """

    higher_is_better = False
    squared: Tensor
    relative: Tensor
    close: Tensor
    pixels: Tensor

    def __init__(self, *, ignore_index: int = 255, validate: bool = True) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        self._add_sum("squared", dtype=torch.float64)
        self._add_sum("relative", dtype=torch.float64)
        self._add_sum("close")
        self._add_sum("pixels")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images.

        Args:
            preds: Depths (B, H, W) or (B, 1, H, W).
            target: True depths > 0, (B, H, W) or (B, 1, H, W).

        Raises:
            ValueError: for shapes that differ, predictions that are not finite, or labels <= 0.
        """
        preds, target = label_map(preds), label_map(target)
        self._check(preds, target)
        if self.validate and bool((target <= 0).any()):
            raise ValueError(
                f"DepthMetrics: label {float(target.min()):g} found; expected depths > 0, or {self.ignore_index} where "
                f"depth is missing"
            )
        sums = depth_sums(preds, target, ignore_index=self.ignore_index, dtype=self.squared.dtype)
        for name, value in sums._asdict().items():
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> dict[str, Tensor]:
        """``rmse``, ``abs_rel``, ``delta1``."""
        self._check_not_empty(self.pixels)
        return depth_errors(DepthSums(self.squared, self.relative, self.close, self.pixels))


class RootMeanSquaredError(DenseMetric):
    """Root mean square error over all labelled pixels of a data set; squared differences are summed over channels.

    Args:
        ignore_index: Label of pixels to leave out.
        validate: Check shapes and values in `update`.

    Example:
        >>> metric = RootMeanSquaredError()
        >>> metric.update(torch.tensor([[[1.0, 4.0]]]), torch.tensor([[[1.0, 255.0]]]))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = False
    squared: Tensor
    count: Tensor

    def __init__(self, *, ignore_index: int = 255, validate: bool = True) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        self._add_sum("squared", dtype=torch.float64)
        self._add_sum("count")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add maps (B, H, W) or (B, C, H, W).

        Raises:
            ValueError: for shapes that differ, or values that are not finite.
        """
        preds, target = (x[:, 0] if x.ndim == 4 and x.shape[1] == 1 else x for x in (preds, target))
        self._check(preds, target)
        valid = valid_mask(target, self.ignore_index)
        channels_last = (x.movedim(1, -1) if x.ndim == 4 else x for x in (preds, target))
        p, g = (x[valid].to(self.squared.dtype) for x in channels_last)
        self.squared = self.squared + (p - g).square().sum()
        self.count = self.count + valid.sum()

    def compute(self) -> Tensor:
        """√(Σ(p−g)²/n)."""
        self._check_not_empty(self.count)
        return (self.squared / self.count).sqrt()
