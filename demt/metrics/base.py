"""What the metrics of this package share."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from demt.labels import NoLabelsError


def add_settings(metric: Metric, *settings: Any) -> None:
    """Keep a digest of what `update` depends on as a state of a metric.

    A `torchmetrics.MetricCollection` takes metrics whose states are equal after the first batch for one, and updates
    only one of them; with another ignore index, say, they may be equal by chance.
    """
    digest = hashlib.sha256(repr((type(metric).__qualname__, *settings)).encode()).digest()
    metric.add_state("settings", torch.tensor(list(digest[:8])), dist_reduce_fx="max")


class DenseMetric(Metric):
    """A metric over labelled pixels whose states are sums of fixed size: int64 counts and float64 sums.

    Results therefore do not depend on how a data set is split into batches or over processes, up to the rounding of
    float64. On a device without float64 sums fall back to float32.

    Args:
        ignore_index: Label of pixels to leave out.
        validate: Check shapes and values in `update`; values make it wait for the device.
        settings: What else `update` depends on.
    """

    settings: Tensor

    full_state_update = False
    is_differentiable = False

    def __init__(self, *settings: Any, ignore_index: int = 255, validate: bool = True) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.validate = validate
        add_settings(self, ignore_index, *settings)

    def _add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.long) -> None:
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _check(
        self, preds: Tensor, target: Tensor, *, limits: tuple[float, float] | None = None, whole: bool = False
    ) -> None:
        """Check that shapes agree and, with ``validate``, that predictions are finite and valid labels in range.

        Args:
            preds: Predictions.
            target: Labels.
            limits: Lowest and highest valid label.
            whole: Whether valid labels are whole numbers.
        """
        name = type(self).__name__
        if preds.shape != target.shape:
            raise ValueError(
                f"{name}: expected `preds` and `target` of the same shape, got {tuple(preds.shape)} and "
                f"{tuple(target.shape)}"
            )
        labels = target[target != self.ignore_index] if self.validate else target[:0]
        if not labels.numel():
            return
        if preds.is_floating_point() and not bool(preds.isfinite().all()):
            raise ValueError(f"{name}: `preds` hold NaN or infinite values")
        low, high = limits or (-sys.float_info.max, sys.float_info.max)
        for value in torch.stack(labels.aminmax()).tolist():
            if not low <= value <= high:
                expected = f"in [{low:g}, {high:g}]" if limits else "finite"
                raise ValueError(
                    f"{name}: label {value:g} found; expected labels {expected}, or {self.ignore_index} where there is "
                    f"no label"
                )
        if whole and labels.is_floating_point() and bool((labels != labels.round()).any()):
            raise ValueError(f"{name}: labels must be whole numbers; was the label map interpolated?")

    def _check_not_empty(self, count: Tensor) -> None:
        if not bool(count > 0):
            raise NoLabelsError(
                f"{type(self).__name__}: no labelled pixel has been given to `update`, so there is nothing to compute"
            )

    def _apply(self, fn: Callable[..., Any], exclude_state: Any = "") -> Any:
        try:
            fn(torch.zeros((), dtype=torch.float64))
        except TypeError:
            for name, default in self._defaults.items():
                if isinstance(default, Tensor) and default.dtype == torch.float64:
                    self._defaults[name] = default.float()
                    setattr(self, name, getattr(self, name).float())
        return super()._apply(fn, exclude_state)
