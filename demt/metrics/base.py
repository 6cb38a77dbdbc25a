"""What the metrics of this package share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class DenseMetric(Metric):
    """A metric over labelled pixels whose states are sums of fixed size: int64 counts and float64 sums.

    Results therefore do not depend on how a data set is split into batches or over processes, up to the rounding of
    float64. On a device without float64 sums fall back to float32.

    Args:
        ignore_index: Label of pixels to leave out.
        validate: Check shapes and values in `update`; values make it wait for the device.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, *, ignore_index: int = 255, validate: bool = True) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.validate = validate

    def _add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.long) -> None:
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _check(self, preds: Tensor, target: Tensor, low: float | None = None, high: float | None = None) -> None:
        """Check that shapes agree and, with ``validate``, that predictions are finite and valid labels in range."""
        if preds.shape != target.shape:
            raise ValueError(
                f"{type(self).__name__}: expected `preds` and `target` of one shape, got {tuple(preds.shape)} and "
                f"{tuple(target.shape)}"
            )
        if not self.validate or not target.numel():
            return
        if preds.is_floating_point() and not bool(preds.isfinite().all()):
            raise ValueError(f"{type(self).__name__}: `preds` hold NaN or infinite values")
        valid = target != self.ignore_index
        values = target[valid]
        if not values.numel():
            return
        for value in torch.stack(values.aminmax()).tolist():
            if not (-torch.inf if low is None else low) <= value <= (torch.inf if high is None else high):
                expected = f"in [{low}, {high}]" if high is not None else f">= {low}" if low is not None else "numbers"
                raise ValueError(
                    f"{type(self).__name__}: label {value:g} found; expected labels {expected}, or "
                    f"{self.ignore_index} where there is no label"
                )

    def _check_not_empty(self, count: Tensor) -> None:
        if not bool(count > 0):
            raise ValueError(
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
