"""Maximal F-measure of saliency."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from demt.labels import label_map
from demt.metrics.base import DenseMetric
from demt.metrics.functional.saliency import f_measure, threshold_counts


class MaxF(DenseMetric):
    """Highest F-measure over thresholds, from counts over the whole data set.

    Args:
        thresholds: Probabilities from which on a pixel is salient; default 0.05, 0.10, ..., 0.95.
        beta_squared: β² of the F-measure: below 1 precision weighs more than recall.
        second_sigmoid: Apply a sigmoid to the probabilities first, as the ``"invpt"`` protocol does. It maps [0, 1] to
            [0.5, 0.73], where only 4 of the default thresholds (0.55 to 0.70) tell pixels apart.
        ignore_index: Label of pixels to leave out.
        validate: Check shapes and values in `update`.

    Example:
        >>> import torch
        >>> metric = MaxF()
        >>> metric.update(torch.tensor([[[0.9, 0.2]]]), torch.tensor([[[1, 0]]]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True
    counts: Tensor
    pixels: Tensor

    def __init__(
        self,
        *,
        thresholds: Sequence[float] | None = None,
        beta_squared: float = 0.3,
        second_sigmoid: bool = False,
        ignore_index: int = 255,
        validate: bool = True,
    ) -> None:
        values = [k / 20 for k in range(1, 20)] if thresholds is None else list(thresholds)
        super().__init__(values, second_sigmoid, ignore_index=ignore_index, validate=validate)
        if not values or values != sorted(values):
            raise ValueError(f"Expected `thresholds` in ascending order, at least one, got {values}")
        if not beta_squared > 0:
            raise ValueError(f"Expected `beta_squared` > 0, got {beta_squared}")
        self.beta_squared = beta_squared
        self.second_sigmoid = second_sigmoid
        self.thresholds = tuple(values)
        self._add_sum("counts", 3, len(values))
        self._add_sum("pixels")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images.

        Args:
            preds: Probability of being salient (B, H, W).
            target: 0 or 1, (B, H, W) or (B, 1, H, W).

        Raises:
            ValueError: for shapes that differ, predictions outside [0, 1], or labels other than 0 and 1.
        """
        target = label_map(target)
        self._check(preds, target, limits=(0, 1), whole=True)
        if self.validate and bool(((preds < 0) | (preds > 1)).any()):
            raise ValueError(
                f"Expected `preds` in [0, 1], got {preds.min():g} to {preds.max():g}; apply a softmax first"
            )
        preds = preds.sigmoid() if self.second_sigmoid else preds
        thresholds = preds.new_tensor(self.thresholds)
        self.counts += threshold_counts(preds, target, thresholds=thresholds, ignore_index=self.ignore_index)
        self.pixels = self.pixels + (target != self.ignore_index).sum()

    def compute(self) -> Tensor:
        """The highest F-measure, in [0, 1]."""
        self._check_not_empty(self.pixels)
        return f_measure(self.counts, beta_squared=self.beta_squared).max()
