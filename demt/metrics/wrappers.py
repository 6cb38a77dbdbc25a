"""Use any torchmetrics metric on label maps with ignored pixels."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

from demt.labels import valid_mask


class ValidPixels(WrapperMetric):
    """Hand only labelled pixels on to a metric: (N,) values, or (N, C) vectors for maps with C > 1 channels.

    Args:
        metric: Any torchmetrics metric of one value per sample.
        ignore_index: Label of pixels to leave out.

    Example:
        >>> import torch
        >>> from torchmetrics import MeanAbsoluteError
        >>> metric = ValidPixels(MeanAbsoluteError())
        >>> metric.update(torch.tensor([[[1.0, 4.0]]]), torch.tensor([[[2.0, 255.0]]]))
        >>> metric.compute()
        tensor(1.)
    """

    def __init__(self, metric: Metric, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.metric = metric
        self.ignore_index = ignore_index

    def _pixels(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        preds, target = (x[:, 0] if x.ndim == 4 and x.shape[1] == 1 else x for x in (preds, target))
        if preds.shape != target.shape:
            raise ValueError(
                f"Expected `preds` and `target` of the same shape, got {tuple(preds.shape)} and {tuple(target.shape)}"
            )
        valid = valid_mask(target, self.ignore_index)
        p, g = (x.movedim(1, -1)[valid] if x.ndim == 4 else x[valid] for x in (preds, target))
        return p, g

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add maps (B, H, W) or (B, C, H, W)."""
        preds, target = self._pixels(preds, target)
        if len(target):
            self.metric.update(preds, target)

    def compute(self) -> Any:
        """What the wrapped metric computes."""
        return self.metric.compute()

    def forward(self, preds: Tensor, target: Tensor) -> Any:
        """Add maps and return the wrapped metric's value on them alone."""
        return self.metric(*self._pixels(preds, target))

    def reset(self) -> None:
        """Reset to the initial state."""
        super().reset()
        self.metric.reset()
