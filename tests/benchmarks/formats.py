"""Quality against time and size: small models and Swin-T in all forms that they run in, in one run.

python -m tests.benchmarks.formats FOLDER [--plot formats.png] [--int8] [--without FORM …] [--models NAME …]

FOLDER keeps the files, the pictures that calibrate, and the figures of each model. What is in it already is taken as it
is: a run that was stopped goes on.
Quality is that of rooms which no model has seen, at the model's own size; and how far the worst task is from torch in
float32 on the seven photographs of `tests.benchmarks.photographs`. Processor time of one thread, medians in turns.
Names without weights have random ones, and no quality.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

import demt
from demt.data import SyntheticRooms
from demt.export.compare import Loaded, load_forms, measure
from demt.metrics import MultiTaskMetrics
from demt.models import MultiTaskModel
from demt.train.run import make_metrics
from tests.benchmarks.photographs import photographs

MODELS = ("demt_lite.photos", "demt_lite.rooms", "demt_nano.rooms", "demt_swin_tiny.nyud")
#: Boundaries are left out: matching them would take most of the time.
METRICS = {"semseg/miou": "mIoU % ↑", "normals/mean": "normals ° ↓", "depth/rmse": "depth m ↓"}
SCALES = {"semseg/miou": 100}
SEED = 7
#: Of images for models without weights.
SIZE = (288, 384)


def calibration(folder: Path) -> Path:
    """Sixteen pictures that are neither measured nor scored: rooms, and crops of scikit-image's other photographs."""
    import skimage

    pictures = folder / "calibrate"
    pictures.mkdir(parents=True, exist_ok=True)
    rooms = SyntheticRooms((288, 384), 12, SEED + 1)
    for index in range(len(rooms)):
        pixels = (rooms[index]["image"] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(pictures / f"room{index:02}.png")
    photos = [skimage.data.immunohistochemistry(), skimage.data.retina(), skimage.data.colorwheel()]
    for index, pixels in enumerate([*photos, skimage.data.hubble_deep_field()]):
        Image.fromarray(pixels).convert("RGB").resize((384, 288)).save(pictures / f"photo{index}.png")
    return pictures


def rooms_score(model: MultiTaskModel, form: Loaded, count: int) -> dict[str, float]:
    size = model.pretrained_cfg.input_size[1:]
    rooms = SyntheticRooms((size[0], size[1]), count, SEED)
    tasks = {name: task for name, task in model.tasks.items() if name != "edge"}
    metrics: MultiTaskMetrics = make_metrics(tasks, "rooms", None)
    with torch.no_grad():
        for index in range(count):
            sample = rooms[index]
            logits = form.run(demt.preprocess(model, sample["image"]))
            metrics.update({name: logits[name].float() for name in tasks}, {name: sample[name][None] for name in tasks})
    found = metrics.compute()
    return {name: float(found[name]) * SCALES.get(name, 1) for name in METRICS}


def rows_of(
    name: str, folder: Path, pictures: Path | None, rounds: int, rooms: int, without: Sequence[str]
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    try:
        model, trained = demt.create_model(name, pretrained=True).eval(), True
    except ValueError:
        # No weights on this machine.
        model, trained = demt.create_model(name, pretrained=False).eval(), False
    files = folder / name
    files.mkdir(exist_ok=True)
    size = model.pretrained_cfg.input_size[1:] if trained else SIZE
    loaded = load_forms(
        model,
        files,
        calibrate=pictures if trained else None,
        bound=0.5,  # all layers in 8 bits: what that costs is for the table to show
        without=without,
    )
    seen = list(photographs().values()) if trained else [SyntheticRooms((size[0], size[1]), 1, SEED)[0]["image"]]
    images = [
        F.interpolate(demt.preprocess(model, each, max_size=max(size)), size, mode="bilinear", antialias=True)
        for each in seen
    ]
    rows = []
    for form in measure(model, loaded, images, rounds):
        found = loaded[form.name]
        score = rooms_score(model, found, rooms) if trained and isinstance(found, Loaded) and not form.missing else {}
        rows.append(
            {
                "model": name,
                "size": "x".join(map(str, size)),
                "form": form.name,
                "missing": form.missing,
                "ms": None if form.cpu_seconds is None else 1e3 * form.cpu_seconds,
                "MB": None if form.bytes is None else form.bytes / 1e6,
                "photographs": max(form.differences.values()) if trained and form.differences else None,
                **{metric: score.get(metric) for metric in METRICS},
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> None:
    print("| model | size | form | ms | MB | " + " | ".join(METRICS.values()) + " | photographs, worst task |")
    print("|---|---|---|" + "---:|" * (3 + len(METRICS)))
    for row in rows:
        if row["missing"]:
            print(f"| {row['model']} | {row['size']} | {row['form']} | {row['missing']} |" + " |" * (2 + len(METRICS)))
            continue
        score = [
            f"{row[name]:.{3 if name == 'depth/rmse' else 1}f}" if row[name] is not None else "" for name in METRICS
        ]
        away = "" if row["photographs"] is None else f"{row['photographs']:.1%}"
        cells = [row["model"], row["size"], row["form"], f"{row['ms']:.0f}", f"{row['MB']:.1f}", *score, away]
        print(f"| {' | '.join(cells)} |")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Classes of rooms against time and size; what has no weights is a line at its time or size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
    there = [row for row in rows if not row["missing"]]
    palette = pyplot.get_cmap("tab20")
    forms, models = (list(dict.fromkeys(row[key] for row in there)) for key in ("form", "model"))
    for axis, key, label in zip(axes, ("ms", "MB"), ("processor time an image, ms", "file, MB")):
        for row in there:
            colour = palette(forms.index(row["form"]))
            if row["semseg/miou"] is None:
                axis.axvline(row[key], color=colour, linestyle=":", linewidth=1)
            else:
                marker = "osD^"[models.index(row["model"]) % 4]
                axis.plot(row[key], row["semseg/miou"], marker, color=colour, markersize=7, alpha=0.8)
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        ticks = [each for each in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= each <= high]
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("classes of rooms, mIoU %")
    for form in forms:
        axes[1].plot([], [], "o", color=palette(forms.index(form)), label=form)
    for model in models:
        trained = any(row["semseg/miou"] is not None for row in there if row["model"] == model)
        marker = "osD^"[models.index(model) % 4] if trained else ":"
        axes[1].plot([], [], marker, color="grey", label=model if trained else f"{model}, no weights")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--int8", action="store_true", help="the forms in 8 bits, too")
    parser.add_argument("--without", nargs="+", default=[], help="forms that are listed, but left out")
    parser.add_argument("--models", nargs="+", default=MODELS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures = calibration(arguments.folder) if arguments.int8 else None
    rows = []
    for name in arguments.models:
        done = arguments.folder / name / "rows.json"
        if not done.exists():
            found = rows_of(name, arguments.folder, pictures, arguments.rounds, arguments.rooms, arguments.without)
            done.write_text(json.dumps(found, indent=1))
        rows += json.loads(done.read_text())
    table(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
