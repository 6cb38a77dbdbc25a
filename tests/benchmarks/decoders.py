"""What a decoder is worth at equal steps and in equal time: necks, attention, heads, on an ImageNet backbone.

python -m tests.benchmarks.decoders --backbone efficientnet-lite0-57934424.pth --seeds 0 1 2 -- baseline DeMT

`lite` (EfficientNet-Lite0) on synthetic rooms of 96 × 128, 8 a step, AdamW at a constant rate after warm-up. An
average of the weights is evaluated at every checkpoint, so that one run gives a whole curve. Rooms are rendered once
and kept in memory, and only the steps themselves are counted, in processor time of one thread. A run's curve is a CSV
file in `--out`; a run that has one is not repeated. `--time` measures a step of each configuration instead, in turns.
`python -m tests.benchmarks.decoders_report` makes the table and the plot.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor

import demt
from demt.data import SyntheticRooms
from demt.losses import MultiTaskLoss
from demt.metrics import MultiTaskMetrics
from demt.tasks import DATASETS
from demt.train.run import make_metrics
from tests.benchmarks.comparison import METRICS

SIZE, BATCH, WARMUP, CLIP = (96, 128), 8, 50, 5.0
TRAIN_SEED, VAL_SEED = 0, 1
BASE, DEMT = "multitask_baseline_lite", "demt_lite"
WINDOWS = {"interaction": "window", "query": "window"}
#: Name, model, changes of its configuration.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": (BASE, {}),
    "baseline, fpn": (BASE, {"neck": "fpn"}),
    "baseline, ppm": (BASE, {"neck": "ppm"}),
    "baseline, fapn": (BASE, {"neck": "fapn"}),
    "baseline, dpt": (BASE, {"neck": "dpt"}),
    "baseline, heads of 64": (BASE, {"head_width": 64}),
    "baseline, refined": (BASE, {"refine_width": 8}),
    "baseline, heads of 64, refined": (BASE, {"head_width": 64, "refine_width": 8}),
    "baseline, fpn, refined": (BASE, {"neck": "fpn", "refine_width": 8}),
    "DeMT": (DEMT, {"initial_offsets": "released"}),
    "DeMT, heads of 64": (DEMT, {"initial_offsets": "released", "head_width": 64}),
    "DeMT, zero offsets": (DEMT, {}),
    "DeMT, no mixer": (DEMT, {"depth": 0}),
    "DeMT, fpn": (DEMT, {"neck": "fpn"}),
    "DeMT, ppm": (DEMT, {"neck": "ppm"}),
    "DeMT, fapn": (DEMT, {"neck": "fapn"}),
    "DeMT, dpt": (DEMT, {"neck": "dpt"}),
    "DeMT, windows": (DEMT, WINDOWS),
    "DeMT, deformable query": (DEMT, {"query": "deformable"}),
    "DeMT, linear query": (DEMT, {"query": "linear", "pre_norm": True}),
    "DeMT, global": (DEMT, {"interaction": "global", "query": "global"}),
    "DeMT, refined": (DEMT, {"refine_width": 8}),
    "DeMT, fpn, refined": (DEMT, {"neck": "fpn", "refine_width": 8}),
    "DeMT, fpn, no mixer": (DEMT, {"neck": "fpn", "depth": 0}),
    "DeMT, fpn, windows": (DEMT, {"neck": "fpn", **WINDOWS}),
    "DeMT, fpn, windows, no mixer": (DEMT, {"neck": "fpn", "depth": 0, **WINDOWS}),
    "DeMTG": ("demtg_lite", {"initial_offsets": "released"}),
    "DeGMix": ("degmix_lite", {"initial_offsets": "released"}),
}


def build(name: str, backbone: str | None = None) -> demt.models.MultiTaskModel:
    arch, changes = CONFIGS[name]
    tasks = {task: DATASETS["rooms"][task] for task in METRICS}
    model = demt.create_model(f"{arch}.rooms", tasks=tasks, pretrained_backbone=backbone or False, **changes)
    assert isinstance(model, demt.models.MultiTaskModel)
    return model


def rooms(seed: int, length: int, cache: Path) -> dict[str, Tensor]:
    """Rooms of a seed as one batch, rendered the first time and kept in a file."""
    file = cache / f"rooms.{seed}.{length}.pt"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        drawn = SyntheticRooms(SIZE, length, seed)
        batch = drawn.collate([drawn[index] for index in range(length)])
        torch.save({name: value for name, value in batch.items() if name != "id"}, file)
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


def taken(data: dict[str, Tensor], rows: Tensor, flip: bool = False) -> dict[str, Tensor]:
    """Some of the rooms with images normalised as for `lite`, mirrored if asked."""
    batch = {name: value[rows] for name, value in data.items()}
    batch["image"] = batch["image"].float() / 127.5 - 1
    if flip:
        batch = {name: value.flip(-1) for name, value in batch.items()}
        batch["normals"][:, 0] *= -1
    return batch


class Steps:
    """A model in training: `step` is a whole training step, of which `seconds` adds up the processor time."""

    def __init__(self, model: demt.models.MultiTaskModel, rate: float) -> None:
        self.model, self.rate, self.done, self.seconds = model.train(), rate, 0, 0.0
        self.criterion = MultiTaskLoss(model.tasks, validate=False)
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=rate, weight_decay=0.05)
        self.average = ModelEmaV3(model, decay=0.998, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)

    def step(self, batch: dict[str, Tensor]) -> float:
        began = time.process_time()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (self.done + 1) / WARMUP)
        loss = self.criterion(self.model(batch["image"]), batch).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        self.average.update(self.model, step=self.done)
        took = time.process_time() - began
        self.seconds += took
        return took


@torch.no_grad()
def evaluated(
    model: torch.nn.Module, tasks: Any, data: dict[str, Tensor], metrics: MultiTaskMetrics
) -> dict[str, float]:
    """The metric and the loss of each task over the held-out rooms."""
    metrics.reset()
    criterion = MultiTaskLoss(tasks, validate=False)
    losses = dict.fromkeys(tasks, 0.0)
    count = len(data["image"])
    for rows in torch.arange(count).split(10):
        batch = taken(data, rows)
        outputs = model(batch["image"])
        labels = {task: batch[task] for task in tasks}
        metrics.update(outputs, labels)
        parts = criterion(outputs, labels).parts
        losses = {task: losses[task] + float(parts[task]) * len(rows) / count for task in tasks}
    found = metrics.compute()
    return {METRICS[task]: float(found[METRICS[task]]) for task in tasks} | {f"loss/{t}": v for t, v in losses.items()}


def run(name: str, seed: int, args: argparse.Namespace, train: dict[str, Tensor], val: dict[str, Tensor]) -> None:
    file = args.out / f"{name.replace(', ', '_').replace(' ', '-')}.{seed}.csv"
    if file.exists():
        return
    torch.manual_seed(seed)
    steps = Steps(build(name, args.backbone), args.rate)
    tasks = steps.model.tasks
    average = steps.average.module.eval()
    metrics = make_metrics(dict(tasks), "rooms", None)
    dice = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [
            torch.randperm(len(train["image"]), generator=dice)
            for _ in range(args.steps * BATCH // len(train["image"]) + 1)
        ]
    )
    fields = ["config", "seed", "step", "seconds", *(METRICS[t] for t in tasks), *(f"loss/{t}" for t in tasks)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".part").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.DictWriter(stream, fields)
        rows.writeheader()
        while steps.done < args.steps:
            flip = bool(torch.rand((), generator=dice) < 0.5)
            batch = taken(train, order[steps.done * BATCH : (steps.done + 1) * BATCH], flip)
            steps.step(batch)
            if steps.done % args.every == 0 or steps.done == args.steps:
                found = evaluated(average, tasks, val, metrics)
                row = {n: round(v, 5) for n, v in found.items()}
                rows.writerow(
                    {"config": name, "seed": seed, "step": steps.done, "seconds": round(steps.seconds, 1), **row}
                )
                stream.flush()
    file.with_suffix(".part").rename(file)
    print(name, seed, f"{steps.seconds:.0f} s", {n: v for n, v in row.items() if "loss" not in n}, flush=True)


def timed(names: list[str], train: dict[str, Tensor], rounds: int) -> dict[str, tuple[float, float]]:
    """Least and median seconds of a whole training step, taken in turns."""
    made = {name: Steps(build(name), 1e-3) for name in names}
    batch = taken(train, torch.arange(BATCH))
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, steps in made.items():
            took = steps.step(batch)
            if turn:
                found[name].append(took)
    return {name: (min(took), statistics.median(took)) for name, took in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=CONFIGS, metavar="NAME", help="configurations")
    parser.add_argument("--backbone", help="file of ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("docs/logs/decoders"))
    parser.add_argument("--cache", type=Path, default=Path("runs/rooms"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    for name, value in {"steps": 300, "every": 150, "rooms": 2000, "held-out": 60, "time": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train = rooms(TRAIN_SEED, args.rooms, args.cache)
    if args.time:
        for name, (least, median) in timed(args.names, train, args.time).items():
            print(f"{name},{1000 * least:.0f},{1000 * median:.0f}")
        return
    val = rooms(VAL_SEED, args.held_out, args.cache)
    for seed in args.seeds:
        for name in args.names:
            run(name, seed, args, train, val)


if __name__ == "__main__":
    main()
