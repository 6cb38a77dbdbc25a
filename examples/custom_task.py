"""A custom task beside a built-in one: its declaration, its loss and its metric.

Trains a tiny network on random pictures for a few seconds: ``python examples/custom_task.py``. The height map of a
picture is its red channel in metres; bright pixels are the foreground. Half of the pictures have no height label.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, Metric

from demt import Task
from demt.losses import MultiTaskLoss, register_loss
from demt.metrics import MultiTaskMetrics, ValidPixels, register_metric


@register_loss("height_huber")
def height_huber(logits: Tensor, target: Tensor, *, ignore_index: int, delta: float = 1.0) -> Tensor:
    """Mean Huber loss over labelled pixels."""
    valid = target != ignore_index
    return F.huber_loss(logits[valid], target[valid], delta=delta)


@register_metric("height_mae")
def height_mae(task: Task) -> Metric:
    """Mean absolute error over labelled pixels, from torchmetrics."""
    return ValidPixels(MeanAbsoluteError(), ignore_index=task.ignore_index)


TASKS = {
    "semseg": Task(name="semseg", channels=2, activation="argmax", loss="cross_entropy", metric="miou"),
    "height": Task(
        name="height", channels=1, unit="m", loss="height_huber", loss_args={"delta": 0.5}, metric="height_mae"
    ),
}


class TinyNet(nn.Module):
    """A trunk and one head a task; logits at half the size of the image, which the loss upsamples."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Conv2d(16, task.channels, 1) for name, task in TASKS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


def make_batch() -> tuple[Tensor, dict[str, Tensor]]:
    """Four smooth random pictures (4, 3, 32, 32) and their labels."""
    images = F.interpolate(torch.rand(4, 3, 4, 4), size=32, mode="bilinear", align_corners=False)
    height = 3 * images[:, :1]
    height[2:] = TASKS["height"].ignore_index
    return images, {"semseg": (images.mean(1) > 0.5).long(), "height": height}


def main(steps: int = 150) -> dict[str, float]:
    """Train, evaluate, print the table, and return the results."""
    torch.manual_seed(0)
    model, criterion, metrics = TinyNet(), MultiTaskLoss(TASKS), MultiTaskMetrics(TASKS)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        images, targets = make_batch()
        loss = criterion(model(images), targets)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        if step % 50 == 0:
            parts = ", ".join(f"{name} {part.item():.3f}" for name, part in loss.parts.items())
            print(f"step {step}: total {loss.total.item():.3f} ({parts})")
    for _ in range(10):
        images, targets = make_batch()
        metrics.update(model(images), targets)
    results = metrics.compute()
    metrics.print_table()
    return results


if __name__ == "__main__":
    main()
