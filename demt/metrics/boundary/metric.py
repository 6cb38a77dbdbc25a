"""Boundary scores as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from demt.metrics.base import add_settings
from demt.metrics.boundary.inputs import BSDS_THRESHOLDS, SEISM_THRESHOLDS, as_max_distance
from demt.metrics.boundary.nms import EdgeNms, resolve_nms
from demt.metrics.boundary.scores import BoundaryScores, BoundaryTotals
from demt.metrics.functional.boundary import (
    Backend,
    NmsName,
    TargetMode,
    boundary_counts,
    boundary_target,
    resolve_backend,
)


class BoundaryScore(Metric):
    """ODS, OIS and AP of predicted boundaries over a data set; see `boundary_counts` for what is counted.

    The state is sums of counts: its size does not grow with the number of images, and processes are joined by adding.
    Maps are evaluated on the CPU, one image after another.

    Args:
        max_distance: Tolerance as a fraction of each image's diagonal: 0.011 for NYUD, 0.0075 for PASCAL.
        thresholds: Ascending values in [0, 1]; by default .01 … .99, with `nms="seism"` also .001 and .999.
        nms: ``"seism"``, ``"mtdp"``, own parameters, or None for no suppression.
        gt: What is true: ``"raw"`` the target as it is, ``"seism"`` the boundary of the target read as a label map,
            thinned (see `boundary_target`).
        quantize: Cut probabilities to 8 bits first, as evaluations on saved pictures do.
        interpolate: Take ODS also between thresholds, as the BSDS benchmark does.
        backend: ``"auto"``, ``"numba"`` or ``"numpy"``.

    Raises:
        ValueError: for an argument with no meaning, and at `compute` if no image was added.
        ImportError: for ``backend="numba"`` without numba.

    Example:
        >>> import torch
        >>> from demt.metrics import BoundaryScore
        >>> target = torch.zeros(2, 40, 60)
        >>> target[:, 20] = 1
        >>> metric = BoundaryScore(max_distance=0.02)
        >>> metric.update(0.9 * target.roll(1, dims=1), target)
        >>> metric.compute().ods
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    matched: Tensor
    predicted: Tensor
    true: Tensor
    best: Tensor
    images: Tensor

    def __init__(
        self,
        *,
        max_distance: float,
        thresholds: Iterable[float] | None = None,
        nms: NmsName | EdgeNms | None = None,
        gt: TargetMode = "raw",
        quantize: bool = True,
        interpolate: bool = False,
        backend: Backend = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if thresholds is None:
            thresholds = SEISM_THRESHOLDS if nms == "seism" else BSDS_THRESHOLDS
        self.thresholds: tuple[float, ...] = tuple(BoundaryTotals.zero(thresholds).thresholds.tolist())
        self.max_distance = as_max_distance(max_distance)
        self.nms = resolve_nms(nms)
        if gt not in ("raw", "seism"):
            raise ValueError(f"Expected `gt` to be 'raw' or 'seism', got {gt!r}")
        self.gt: TargetMode = gt
        self.quantize = quantize
        self.interpolate = interpolate
        self.backend: Backend = resolve_backend(backend)
        add_settings(self, self.thresholds, self.max_distance, self.nms, self.gt, quantize)
        for name, shape in (("matched", (len(self.thresholds),)), ("predicted", (len(self.thresholds),))):
            self.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("true", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("best", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images.

        Args:
            preds: Probabilities (B, H, W) or (B, 1, H, W), floats in [0, 1] or uint8 read as p/255.
            target: True maps of the same shape; see `boundary_counts` and `gt`. Crop padding first.
        """
        preds, target = _images("preds", preds), _images("target", target)
        if preds.shape != target.shape:
            raise ValueError(
                f"Expected `preds` and `target` of the same shape, got {tuple(preds.shape)} and {tuple(target.shape)}"
            )
        totals = BoundaryTotals.zero(self.thresholds)
        for probability, labels in zip(preds.detach().cpu(), target.detach().cpu()):
            totals.add(
                boundary_counts(
                    probability,
                    boundary_target(labels, self.gt),
                    max_distance=self.max_distance,
                    thresholds=self.thresholds,
                    nms=self.nms,
                    quantize=self.quantize,
                    backend=self.backend,
                )
            )
        self.matched += torch.from_numpy(totals.matched).to(self.matched.device)
        self.predicted += torch.from_numpy(totals.predicted).to(self.predicted.device)
        self.true += totals.true
        self.best += torch.tensor([totals.best_matched, totals.best_predicted], device=self.best.device)
        self.images += totals.images

    def compute(self) -> BoundaryScores:
        """Scores of all images so far."""
        best_matched, best_predicted = self.best.tolist()
        return BoundaryTotals(
            np.array(self.thresholds),
            self.matched.cpu().numpy(),
            self.predicted.cpu().numpy(),
            int(self.true),
            best_matched,
            best_predicted,
            int(self.images),
        ).scores(self.interpolate)


def _images(name: str, maps: Tensor) -> Tensor:
    if not isinstance(maps, Tensor):
        raise ValueError(f"Expected `{name}` to be a tensor, got {type(maps).__name__}")
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3:
        raise ValueError(f"Expected `{name}` of shape (B, H, W) or (B, 1, H, W), got {tuple(maps.shape)}")
    return maps
