"""Does the decoder help? Single-task models, the multi-task baseline and DeMT, DeMTG, DeGMix with parts changed.

python -m tests.benchmarks.comparison [--out runs/comparison] [--steps 600] [--seeds 3]

Everything has the same backbone, scenes, steps and seeds. The backbone starts from a multi-task baseline trained on
other scenes, in place of ImageNet weights. A run's results are a JSON file, and runs that have one are not repeated:
start it again to go on. It ends with the table of `docs/comparison.md`. One thread; about two hours.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import demt
from demt.config import PretrainedCfg
from demt.data import InMemory, MultiTaskDataset, SyntheticRooms
from demt.files import write_whole
from demt.losses import MultiTaskLoss
from demt.metrics import delta_m
from demt.tasks import DATASETS
from demt.train import Recipe, load_recipe, train
from demt.train.data import open_dataset

SIZE = (48, 64)
METRICS = {
    "semseg": "semseg/miou",
    "human_parts": "human_parts/miou",
    "sal": "sal/maxf",
    "normals": "normals/mean",
    "depth": "depth/rmse",
    "edge": "edge/odsF",
}
#: Factors of what the table shows: percent otherwise, degrees, and centimetres.
SCALE = {"normals": 1, "depth": 100}
PAPER = {"interaction": "global", "query": "global"}
#: Name in the table, family, changes of the family's configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "multi-task baseline": ("multitask_baseline", {}),
    "DeMT": ("demt", {}),
    "DeMT, zero offsets": ("demt", {"initial_offsets": "zero"}),
    "DeMT, no mixer": ("demt", {"depth": 0}),
    "DeMT, attention of the paper": ("demt", PAPER),
    "DeMTG": ("demtg", {}),
    "DeMTG, zero offsets": ("demtg", {"initial_offsets": "zero"}),
    "DeMTG, no mixer": ("demtg", {"depth": 0}),
    "DeMTG, attention of the paper": ("demtg", PAPER),
    "DeGMix": ("degmix", {}),
    "DeGMix, zero offsets": ("degmix", {"initial_offsets": "zero"}),
    "DeGMix, no mixer": ("degmix", {"depth": 0}),
    "DeGMix, DeMT's neck": ("degmix", {"neck": "linear"}),
    "DeGMix, attention of the paper": ("degmix", {"interaction": "global"}),
}


class Only(MultiTaskDataset):
    """The labels of some tasks of a data set."""

    def __init__(self, dataset: MultiTaskDataset, tasks: list[str]) -> None:
        super().__init__(dataset.ids, {name: dataset.tasks[name] for name in tasks}, transform=dataset.transform)
        self.dataset = dataset

    def read(self, index):
        sample = self.dataset.read(index)
        return {name: value for name, value in sample.items() if name in {"image", "id", *self.tasks}}


def recipe(out: Path, steps: int, seed: int, args: argparse.Namespace) -> Recipe:
    changes = [f"out={out}", f"steps={steps}", f"seed={seed}", f"save_every={steps}", f"eval_every={steps}"]
    changes += [f"data.length={args.scenes}", f"data.val_length={args.val_scenes}", f"data.size={list(SIZE)}"]
    changes += ["optim.warmup=30", "optim.lr=1e-3", "data.workers=0", "data.eval_batch_size=10", "samples=0"]
    return load_recipe("rooms", changes)


def build(family: str, changes: dict[str, Any], tasks: list[str]) -> demt.models.MultiTaskModel:
    chosen = {name: DATASETS["rooms"][name] for name in tasks}
    model = demt.create_model(f"{family}_nano", tasks=chosen, pretrained_backbone=False, **changes)
    assert isinstance(model, demt.models.MultiTaskModel)
    model.pretrained_cfg = PretrainedCfg(input_size=(3, *SIZE))
    return model


def run(name: str, seed: int, sets: tuple[MultiTaskDataset, ...], args: argparse.Namespace, start: Any) -> None:
    """Train a model of the table, or the single-task model of the task that `name` is, unless its results are there."""
    single = name in METRICS
    tasks = [name] if single else list(METRICS)
    family, changes = ("multitask_baseline", {}) if single else MODELS[name]
    file = args.out / "results" / f"{re.sub('[^A-Za-z_]+', '_', name)}.{seed}.json"
    if file.exists():
        return
    torch.manual_seed(seed)
    model = build(family, changes, tasks)
    model.backbone.load_state_dict(start)
    began = time.process_time()
    folder = args.out / "runs" / f"{file.stem}.{int(time.time())}"
    trained = train(
        recipe(folder, args.steps, seed, args),
        train_set=Only(sets[0], tasks),
        val_set=Only(sets[1], tasks),
        model=model,
        console=Console(file=io.StringIO()),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    results = {METRICS[task]: trained.results[METRICS[task]] for task in tasks}
    print(name, seed, f"{time.process_time() - began:.0f} s", {k: round(v, 4) for k, v in results.items()}, flush=True)
    record = {"model": name, "seed": seed, "steps": args.steps, "results": results}
    write_whole(file, lambda path: Path(path).write_text(json.dumps(record) + "\n", encoding="utf-8"))


def seconds_a_step(models: dict[str, Any], batch: dict[str, Any], rounds: int = 5) -> dict[str, float]:
    """Median seconds of a training step, rounds interleaved."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for round in range(rounds + 1):
        for name, model in models.items():
            criterion = MultiTaskLoss(model.tasks, validate=False)
            began = time.perf_counter()
            criterion(model.train()(batch["image"]), batch).total.backward()
            if round:
                times[name].append(time.perf_counter() - began)
            model.zero_grad()
    return {name: statistics.median(found) for name, found in times.items()}


def table(args: argparse.Namespace, batch: dict[str, Any]) -> str:
    """The table in Markdown: mean ± standard deviation over seeds; the gain is that over each seed's single tasks."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for file in sorted((args.out / "results").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(record["model"], {})[record["seed"]] = record["results"]
    models = {name: build(*MODELS[name], list(METRICS)) for name in MODELS if name in found}
    singles = {task: build("multitask_baseline", {}, [task]) for task in METRICS}
    seconds = seconds_a_step({**singles, **models}, batch)
    rows = {"six single-task models": merged([found[task] for task in METRICS]), **{m: found[m] for m in models}}
    head = ["", "mIoU ↑", "parts mIoU ↑", "saliency maxF ↑", "normals ° ↓", "depth cm ↓", "edge odsF ↑", "Δm % ↑"]
    lines = [[*head, "params M", "ms/step"], ["---", *["---:"] * 9]]
    for name, seeds in rows.items():
        cells = [
            spread([SCALE.get(task, 100) * result[METRICS[task]] for result in seeds.values()]) for task in METRICS
        ]
        base = rows["six single-task models"]
        gain = spread([delta_m(r, base[seed]) for seed, r in seeds.items() if seed in base])
        parts = [models[name]] if name in models else list(singles.values())
        count = sum(p.numel() for model in parts for p in model.parameters()) / 1e6
        took = seconds[name] if name in models else sum(seconds[task] for task in METRICS)
        lines.append([name, *cells, gain if name in models else "", f"{count:.2f}", f"{1000 * took:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def merged(singles: list[dict[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """Results of six single-task models of one seed, as those of one model."""
    seeds = set.intersection(*(set(found) for found in singles))
    return {seed: {k: v for found in singles for k, v in found[seed].items()} for seed in sorted(seeds)}


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    for name, value in {"steps": 600, "seeds": 3, "scenes": 2000, "val-scenes": 150, "backbone-steps": 1500}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = recipe(args.out, args.steps, 0, args)
    sets = tuple(InMemory(open_dataset(plan.data, split)) for split in ("train", "val"))
    if not args.table:
        pretraining = recipe(args.out / "backbone", args.backbone_steps, 0, args)
        if not (args.out / "backbone/last/model.safetensors").exists():
            # Scenes of a third seed, the same number.
            elsewhere = InMemory(SyntheticRooms(SIZE, args.scenes, seed=2, transform=sets[0].transform))
            train(
                pretraining,
                train_set=elsewhere,
                val_set=sets[1],
                model=build("multitask_baseline", {}, list(METRICS)),
                console=Console(file=io.StringIO()),
            )
        start = demt.create_model(f"local-dir:{args.out / 'backbone/last'}").backbone.state_dict()
        for seed in range(args.seeds):
            for name in [*METRICS, *MODELS]:
                run(name, seed, sets, args, start)
    print(table(args, sets[0].collate([sets[0][index] for index in range(8)])))


if __name__ == "__main__":
    main()
