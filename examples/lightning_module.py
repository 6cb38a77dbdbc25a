"""A demt model in PyTorch Lightning: the loss, the metrics and the data are ordinary modules.

``pip install lightning`` and ``python examples/lightning_module.py``: a minute on a CPU, on synthetic rooms.
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import demt
from demt.data import SyntheticRooms, transforms
from demt.losses import MultiTaskLoss
from demt.metrics import MultiTaskMetrics


class MultiTaskModule(lightning.LightningModule):
    """Any demt model, trained on all of its tasks."""

    def __init__(self, name: str, tasks: dict[str, demt.Task], lr: float = 1e-3) -> None:
        super().__init__()
        self.model = demt.create_model(name, tasks=tasks)
        self.criterion = MultiTaskLoss(tasks, across_processes=True)
        self.metrics = MultiTaskMetrics(tasks)
        self.lr = lr

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        result = self.criterion(self.model(batch["image"]), batch)
        self.log_dict({f"loss/{name}": part for name, part in result.parts.items()})
        if index % 20 == 0:
            parts = ", ".join(f"{name} {part.item():.3f}" for name, part in result.parts.items())
            print(f"step {index}: total {result.total.item():.3f} ({parts})")
        return result.total

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.metrics.update(self.model(batch["image"]), batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.metrics.compute())
        self.metrics.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def main(steps: int = 60) -> dict[str, float]:
    """Train, evaluate, and return what was logged."""
    size, tasks = (96, 128), ["semseg", "normals", "depth"]
    train_set = SyntheticRooms(size, 8 * steps, tasks=tasks, transform=transforms.train_transform(size=size))
    val_set = SyntheticRooms(size, 8, seed=1, tasks=tasks, transform=transforms.eval_transform())
    module = MultiTaskModule("degmix_nano", train_set.tasks)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(
        module,
        DataLoader(train_set, batch_size=8, shuffle=True, collate_fn=train_set.collate),
        DataLoader(val_set, batch_size=4, collate_fn=val_set.collate),
    )
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    print(main())
