"""The best constant prediction that training labels suggest: what any trained model has to beat."""

from __future__ import annotations

import torch

from demt.data import MultiTaskDataset
from demt.metrics import MultiTaskMetrics
from demt.train.run import make_metrics


def constant_logits(train: MultiTaskDataset, count: int) -> dict[str, torch.Tensor]:
    """For each task one vector (C,): the classes' log-frequencies, the mean depth, normal and share of boundaries."""
    samples = [train.read(index) for index in range(count)]
    logits = {}
    for name, task in train.tasks.items():
        values = torch.stack([sample[name].as_subclass(torch.Tensor) for sample in samples])
        if task.activation in ("argmax", "foreground"):
            counts = torch.bincount(values[values != 255].long(), minlength=task.channels).float()
            logits[name] = counts.log1p()
        elif name == "edge":
            logits[name] = values.mean()[None].logit()
        else:
            channels = values.transpose(0, 1).flatten(1)
            logits[name] = channels[:, (channels != 255).all(0)].mean(1)
    return logits


def constant_results(train: MultiTaskDataset, val: MultiTaskDataset, count: int = 100) -> dict[str, float]:
    """Metrics of that prediction on `val`."""
    logits = constant_logits(train, count)
    metrics: MultiTaskMetrics = make_metrics(val.tasks, "rooms", None)
    for index in range(len(val)):
        batch = val.collate([val.read(index)])
        size = batch["image"].shape[-2:]
        metrics.update({n: v[None, :, None, None].expand(1, -1, *size) for n, v in logits.items()}, batch)
    return metrics.compute()
