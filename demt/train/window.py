"""Measurements between two rows of a run's log."""

from __future__ import annotations

import time
from typing import Any

import torch

from demt.train.run import Run


class Window:
    """Losses and times since the last row of the log. Losses are looked at a step late: the device does not wait."""

    def __init__(self, device: torch.device, tasks: int) -> None:
        self.sums = torch.zeros(2, tasks + 1, device=device)
        self.weights = torch.zeros(tasks, device=device)
        self.unchecked: list[tuple[int, list[str], torch.Tensor]] = []
        self.restart()

    def restart(self) -> None:
        """Start measuring time, e.g. after an evaluation."""
        self.started, self.waited, self.parts, self.sums = time.perf_counter(), 0.0, 0, torch.zeros_like(self.sums)

    def add(self, run: Run, step: int, ids: list[str], result: Any) -> None:
        """Count a batch."""
        parts = torch.stack([*result.parts.values()]).detach()
        present = torch.stack([*result.labelled.values()]) > 0
        one = parts.new_ones(1)
        values = torch.cat([result.total.detach()[None], parts])
        self.sums = self.sums + torch.stack([values, torch.cat([one, present.to(parts.dtype)])])
        self.weights = torch.stack([*result.weights.values()]).detach()
        self.unchecked.append((step, ids, parts))
        self.parts += 1

    def check(self, run: Run) -> Exception | None:
        """The error for losses of the batches before that are not finite."""
        errors = [run.not_finite(*entry) for entry in self.unchecked]
        self.unchecked = []
        return next((error for error in errors if error is not None), None)

    def row(self, run: Run, done: int) -> dict[str, float]:
        """Means over the window and all processes: of each loss over the batches that had labels. Starts anew."""
        values, counts = run.accelerator.reduce(self.sums, reduction="mean")
        total, *parts = (values / counts.clamp_min(1)).tolist()
        seconds = max(time.perf_counter() - self.started, 1e-9)
        row: dict[str, float] = {"step": done, "lr": max(group["lr"] for group in run.optimizer.param_groups)}
        row |= {"total": total, **{f"loss/{name}": part for name, part in zip(run.criterion.tasks, parts)}}
        row |= {f"weight/{name}": weight for name, weight in zip(run.criterion.tasks, self.weights.tolist())}
        row |= {"steps_per_second": self.parts / run.recipe.accumulate / seconds, "data_wait": self.waited / seconds}
        self.restart()
        return row
