"""Random maps for metric tests: predictions and labels of three images, some pixels ignored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from demt.metrics import DepthMetrics, MaxF, MeanIoU, NormalsMetrics, RootMeanSquaredError

METRICS: dict[str, Callable[[], Metric]] = {
    "miou": lambda: MeanIoU(6),
    "depth": DepthMetrics,
    "rmse": RootMeanSquaredError,
    "normals": NormalsMetrics,
    "maxf": MaxF,
}


def case(metric: str, *, images: int = 3, ignored: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and labels (images, [3,] 9, 7) for one of `METRICS`."""
    generator = torch.Generator().manual_seed(seed)
    size = (images, 9, 7)
    if metric == "miou":
        preds, target = (torch.randint(0, 5, size, generator=generator) for _ in range(2))
    elif metric == "maxf":
        target = (torch.rand(size, generator=generator) < 0.3).long()
        preds = (torch.rand(size, generator=generator) + 0.3 * target).clamp_max(1)
    elif metric == "normals":
        target = F.normalize(torch.randn(images, 3, 9, 7, generator=generator), dim=1)
        preds = target + 0.5 * torch.randn(target.shape, generator=generator)
    else:
        target = 1 + 9 * torch.rand(size, generator=generator)
        preds = (target + torch.randn(size, generator=generator)).clamp_min(0.1)
    mask = torch.rand(size, generator=generator) < ignored
    return preds, target.masked_fill(mask[:, None] if metric == "normals" else mask, 255)


def flat(value: Tensor | dict[str, Tensor]) -> dict[str, float]:
    """What `compute` returned, as floats."""
    return {k: float(v) for k, v in (value if isinstance(value, dict) else {"value": value}).items()}
