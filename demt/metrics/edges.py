"""Boundary scores of an edge task whose label maps are padded with ignored pixels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torchmetrics.wrappers.abstract import WrapperMetric

from demt.labels import label_map
from demt.metrics.boundary.metric import BoundaryScore


class EdgeMetrics(WrapperMetric):
    """`BoundaryScore` on each image without its padding, as a dictionary ``odsF``, ``oisF``, ``ap``.

    Boundary evaluation has no notion of ignored pixels. So each image is cropped to the smallest box around its
    labelled pixels, ignored pixels within the box do not count as boundary, and an image without labels is left out.
    Soft labels, such as the mean of several annotators, are boundaries from 0.5 on.

    Args:
        max_distance: Largest distance at which boundary pixels match, as a share of the image's diagonal.
        nms: ``"seism"``, ``"mtdp"``, or None.
        gt: ``"seism"`` or ``"raw"``.
        ignore_index: Label of padding.
    """

    def __init__(
        self,
        *,
        max_distance: float,
        nms: Literal["seism", "mtdp"] | None = "seism",
        gt: Literal["seism", "raw"] = "seism",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.metric = BoundaryScore(max_distance=max_distance, nms=nms, gt=gt)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add probabilities (B, H, W) and edge maps (B, H, W) or (B, 1, H, W), in [0, 1].

        Raises:
            ValueError: for values that are not finite or outside [0, 1].
        """
        preds, target = label_map(preds), label_map(target)
        for probability, label in zip(preds, target):
            valid = label != self.ignore_index
            rows, columns = valid.any(1).nonzero()[:, 0], valid.any(0).nonzero()[:, 0]
            if not len(rows):
                continue
            box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
            label = label.masked_fill(~valid, 0)[box]
            if not bool(((label >= 0) & (label <= 1)).all()):
                raise ValueError(f"EdgeMetrics: expected labels in [0, 1], got {label.min():g} to {label.max():g}")
            self.metric.update(probability[box][None], (label >= 0.5)[None])

    def compute(self) -> dict[str, float]:
        """``odsF``, ``oisF``, ``ap``, in [0, 1]."""
        scores = self.metric.compute()
        return {"odsF": float(scores.ods), "oisF": float(scores.ois), "ap": float(scores.ap)}

    def reset(self) -> None:
        """Reset to the initial state."""
        super().reset()
        self.metric.reset()
