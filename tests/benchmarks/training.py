"""Steps per second of `demt.train`, over a bare loop of torch on the same batches, and the share of waiting for data.

python -m tests.benchmarks.training

The nano model on synthetic rooms that are kept in memory; one thread, rounds interleaved.
"""

from __future__ import annotations

import csv
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from demt.data import SyntheticRooms
from demt.data.transforms import eval_transform
from demt.losses import MultiTaskLoss
from demt.train import Recipe, load_recipe, train
from demt.train.data import train_loader
from demt.train.optim import make_optimizer, make_schedule
from demt.train.start import make_model

STEPS, ROUNDS = 20, 3


class Kept(SyntheticRooms):
    """Rooms that are rendered once."""

    def __getitem__(self, index):
        self.memory = getattr(self, "memory", {})
        if index not in self.memory:
            self.memory[index] = super().__getitem__(index)
        return self.memory[index]


def bare(recipe: Recipe, dataset: SyntheticRooms) -> float:
    """Steps per second of a loop with nothing but the model, the loss and the optimiser."""
    model = make_model(recipe, recipe.data, dataset.tasks)[0].train()
    criterion = MultiTaskLoss(dataset.tasks)
    optimizer = make_optimizer(model, criterion, recipe.optim)
    schedule = make_schedule(optimizer, recipe.optim, recipe.steps)
    start = time.perf_counter()
    for step, batch in enumerate(train_loader(dataset, recipe)):
        schedule.step_update(step)
        criterion(model(batch["image"]), batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return recipe.steps / (time.perf_counter() - start)


def whole(recipe: Recipe, dataset: SyntheticRooms) -> tuple[float, float]:
    """Steps per second of `demt.train` and the share of waiting, from its own log."""
    val_set = SyntheticRooms(dataset.size, 1, 1, tasks=list(dataset.tasks), transform=eval_transform())
    folder = train(recipe, train_set=dataset, val_set=val_set, console=Console(file=io.StringIO())).folder
    with (folder / "train.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]
    return tuple(statistics.mean(float(row[name]) for row in rows) for name in ("steps_per_second", "data_wait"))


def main() -> None:
    torch.set_num_threads(1)
    dataset = Kept((96, 128), 8, tasks=["semseg", "normals", "depth"], transform=eval_transform())
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            out = Path(folder) / str(number)
            changes = [f"steps={STEPS}", "optim.warmup=0", "data.workers=0", "samples=0", f"out={out}", "batch_size=4"]
            recipe = load_recipe("rooms", changes)
            plain = bare(recipe, dataset)
            speed, waiting = whole(recipe, dataset)
            ratios.append(speed / plain)
            print(f"bare {plain:.2f} steps/s, demt.train {speed:.2f} steps/s, {100 * waiting:.1f} % waiting for data")
    print(f"demt.train over the bare loop: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
