"""The weights in the package beside the baseline of the same training and a constant, on rooms none of them has seen.

python -m tests.benchmarks.packaged runs/baseline/last runs/rooms_nano/last [--images 300] [--write FILE]

`--write` puts the last model's weights into a file as they are shipped: float16, and evaluated as such.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import demt
from demt.cli.load import load_model
from demt.data import SyntheticRooms
from demt.data.transforms import eval_transform
from demt.files import write_whole
from demt.train import evaluate
from demt.train.run import make_metrics
from tests.benchmarks.comparison import METRICS, SCALE
from tests.train.constant import constant_results

SIZE, SEED = (96, 128), 3


def halved(model: demt.models.MultiTaskModel) -> dict[str, torch.Tensor]:
    """Its weights as float16, and put back into it."""
    state = {n: v.half() if v.is_floating_point() else v for n, v in model.state_dict().items()}
    assert all(bool(value.isfinite().all()) for value in state.values())
    model.load_state_dict(state)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names of pretrained models, or folders")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    val = SyntheticRooms(SIZE, args.images, SEED)
    print("| | " + " | ".join(METRICS.values()) + " |\n|---|" + "---:|" * len(METRICS))
    show("constant", constant_results(SyntheticRooms(SIZE, 100, 0), val))
    for name in args.models:
        model = load_model(name)
        state = halved(model)
        val.transform = eval_transform(mean=model.pretrained_cfg.mean, std=model.pretrained_cfg.std)
        show(name, evaluate(model, val, metrics=make_metrics(val.tasks, "rooms", None), batch_size=4))
    if args.write is not None:
        write_whole(args.write, lambda path: save_file(state, path, metadata={"format": "pt"}))
        print(f"{args.write}: {args.write.stat().st_size / 1e6:.2f} MB")


def show(name: str, results: dict[str, float]) -> None:
    cells = [f"{SCALE.get(task, 100) * results[metric]:.1f}" for task, metric in METRICS.items()]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
