"""Maximal F-measure of saliency maps."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_counts(preds: Tensor, target: Tensor, *, thresholds: Tensor, ignore_index: int = 255) -> Tensor:
    """Count, for each threshold, what is predicted and what of it is right.

    Args:
        preds: Probabilities of any shape; a pixel is predicted where its probability >= the threshold.
        target: 0 or 1, of the same shape.
        thresholds: (K,) ascending.
        ignore_index: Label of pixels to leave out.

    Returns:
        (3, K) int64: true positives, predicted positives, and (the same for each threshold) labelled positives.

    Example:
        >>> threshold_counts(torch.tensor([0.2, 0.7]), torch.tensor([1, 1]), thresholds=torch.tensor([0.1, 0.5]))
        tensor([[2, 1],
                [2, 1],
                [2, 2]])
    """
    valid = target != ignore_index
    positive = target[valid] == 1
    # How many thresholds a pixel passes: one look at it instead of K.
    passed = torch.bucketize(preds[valid], thresholds.to(preds.dtype), right=True)
    bins = len(thresholds) + 1
    histogram = torch.bincount(passed + bins * positive, minlength=2 * bins).view(2, bins)
    at_least = histogram.flip(1).cumsum(1).flip(1)[:, 1:]
    return torch.stack([at_least[1], at_least.sum(0), positive.sum().expand(len(thresholds))])


def f_measure(counts: Tensor, *, beta_squared: float = 0.3) -> Tensor:
    """(1 + β²)·P·R / (β²·P + R) at each threshold, (K,); 0 where nothing is right.

    Args:
        counts: (3, K) from `threshold_counts`.
        beta_squared: β².

    Example:
        >>> f_measure(torch.tensor([[1], [2], [2]]))
        tensor([0.5000])
    """
    right, predicted, labelled = counts
    return (1 + beta_squared) * right / (beta_squared * labelled + predicted).clamp_min(1e-12)
