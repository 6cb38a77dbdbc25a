"""ODS, OIS and AP of a data set from sums of counts over its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demt.labels import NoLabelsError
from demt.metrics.boundary.inputs import as_thresholds

if TYPE_CHECKING:
    from demt.metrics.functional.boundary import BoundaryCounts

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(kw_only=True)
class BoundaryScores:
    """Scores of a data set.

    Args:
        ods: Best F over thresholds that hold for the whole data set ("odsF").
        ods_threshold: The threshold it is reached at.
        ods_precision: Precision there.
        ods_recall: Recall there.
        ois: F of the counts summed over the images, each at its own best threshold.
        ap: Sum of the precisions at recalls 0, .01 … 1 divided by 100, as SEISM and BSDS have it, so at most 1.01;
            recalls that the curve does not reach count 0.
    """

    ods: float
    ods_threshold: float
    ods_precision: float
    ods_recall: float
    ois: float
    ap: float

    def to_dict(self) -> dict[str, float]:
        """The scores by name."""
        return dataclasses.asdict(self)


def precision_recall_f(
    matched: ArrayLike, predicted: ArrayLike, true: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall and F = 2PR/(P+R) of counts.

    Where nothing is true, recall is 1 and precision 0; where nothing is predicted, recall is 0 and precision 1 (also
    if nothing is true), as SEISM has it.
    """
    matched, predicted, true = np.broadcast_arrays(*(np.asarray(c, np.float64) for c in (matched, predicted, true)))
    precision = np.where(predicted > 0, matched / np.maximum(predicted, 1), 1.0)
    recall = np.where(true > 0, matched / np.maximum(true, 1), np.where(predicted > 0, 1.0, 0.0))
    return precision, recall, _f(precision, recall)


def _f(precision: FloatArray, recall: FloatArray) -> FloatArray:
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1.0)


@dataclasses.dataclass
class BoundaryTotals:
    """Sums over images; their size does not depend on the number of images.

    Args:
        thresholds: (T,) ascending.
        matched: (T,) matched pixels at every threshold.
        predicted: (T,) predicted pixels.
        true: True pixels.
        best_matched: Matched pixels, each image at its own best threshold (the lowest if several are best).
        best_predicted: Predicted pixels likewise.
        images: Number of images.
    """

    thresholds: FloatArray
    matched: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: int = 0
    best_matched: int = 0
    best_predicted: int = 0
    images: int = 0

    @classmethod
    def zero(cls, thresholds: Iterable[float]) -> BoundaryTotals:
        """Sums over no image. Raises `ValueError` for thresholds that are not ascending numbers in [0, 1]."""
        values = as_thresholds(thresholds)
        if (np.diff(values) <= 0).any():
            raise ValueError("Expected `thresholds` in ascending order, each once")
        return cls(values, *np.zeros((2, len(values)), np.int64))

    def add(self, counts: BoundaryCounts) -> None:
        """Add one image's counts at these thresholds."""
        best = int(np.argmax(precision_recall_f(*counts)[2]))
        self.matched += counts.matched
        self.predicted += counts.predicted
        self.true += int(counts.true[0])
        self.best_matched += int(counts.matched[best])
        self.best_predicted += int(counts.predicted[best])
        self.images += 1

    def scores(self, interpolate: bool = False) -> BoundaryScores:
        """Scores of the images so far; see `boundary_scores`."""
        if not self.images:
            raise NoLabelsError("Expected at least one image, got none")
        precision, recall, f = precision_recall_f(self.matched, self.predicted, self.true)
        thresholds = self.thresholds
        ap = _average_precision(precision, recall)
        if interpolate and len(f) > 1:
            thresholds, precision, recall = (_between(values) for values in (thresholds, precision, recall))
            f = _f(precision, recall)
        best = int(np.argmax(f))
        ois = precision_recall_f(self.best_matched, self.best_predicted, self.true)[2]
        return BoundaryScores(
            ods=float(f[best]),
            ods_threshold=float(thresholds[best]),
            ods_precision=float(precision[best]),
            ods_recall=float(recall[best]),
            ois=float(ois),
            ap=ap,
        )


def boundary_scores(
    counts: Iterable[BoundaryCounts], thresholds: Iterable[float], *, interpolate: bool = False
) -> BoundaryScores:
    """ODS, OIS and AP of a data set by the rules of SEISM.

    Args:
        counts: Counts of every image, all at `thresholds`; may be a generator.
        thresholds: The thresholds of the counts, in their order, each once.
        interpolate: Take ODS also from 100 points between every two thresholds, where precision and recall are
            interpolated linearly (the rule of the BSDS benchmark), not only from the thresholds themselves.

    Raises:
        ValueError: if there are no counts or their length is not that of `thresholds`.

    Example:
        >>> import numpy as np
        >>> from demt.metrics.functional import BoundaryCounts
        >>> image = BoundaryCounts(np.array([8, 6]), np.array([16, 6]), np.array([10, 10]))
        >>> scores = boundary_scores([image], [0.25, 0.75])
        >>> scores.ods_threshold, round(scores.ods, 6)
        (0.75, 0.75)
    """
    values = as_thresholds(thresholds)
    order = np.argsort(values)
    totals = BoundaryTotals.zero(values[order])
    for image in counts:
        columns: list[Any] = [np.asarray(column) for column in image]
        if any(column.shape != values.shape for column in columns):
            raise ValueError(
                f"Expected counts at {len(values)} thresholds, got shapes {[column.shape for column in columns]}"
            )
        totals.add(type(image)(*(column[order] for column in columns)))
    return totals.scores(interpolate)


def _average_precision(precision: FloatArray, recall: FloatArray) -> float:
    recalls, first = np.unique(recall, return_index=True)
    if len(recalls) < 2:
        return 0.0
    return float(np.interp(np.arange(101) / 100, recalls, precision[first], left=0.0, right=0.0).sum() / 100)


def _between(values: FloatArray) -> FloatArray:
    """100 values evenly from each value to the next."""
    weight = np.linspace(0, 1, 100)
    return (values[:-1, None] * (1 - weight) + values[1:, None] * weight).ravel()
