"""The tables and the plot of the curves that `tests.benchmarks.decoders` wrote.

python -m tests.benchmarks.decoders_report [--steps 300] [--plot docs/comparison.png]

Gains are Δm over the baseline of the same seed, without human parts: at equal steps, and in equal time, where the
baseline's results are interpolated between its checkpoints. Time is the number of steps times the seconds of a step in
`steps.csv`, measured in turns (`tests.benchmarks.decoders --time`), so that it does not depend on what else the machine
did.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

from demt.metrics import delta_m
from tests.benchmarks.comparison import METRICS, SCALE, spread

LOGS = Path("docs/logs/decoders")
COMPARED = [METRICS[task] for task in METRICS if task != "human_parts"]
#: Results by metric, of each step.
Curve = dict[int, dict[str, float]]
#: By configuration and seed.
Curves = dict[str, dict[int, Curve]]


def read(folder: Path) -> Curves:
    curves: Curves = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for file in sorted(folder.glob("*.*.csv")):
        with file.open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                values = {key: float(value) for key, value in row.items() if key in METRICS.values()}
                curves[row["config"]][int(row["seed"])][int(row["step"])] |= values
    return curves


def costs(folder: Path) -> dict[str, float]:
    """Seconds of a training step, by configuration: in steps of its run's baseline, times those of the first run."""
    with (folder / "steps.csv").open(encoding="utf-8") as stream:
        rows = [(row["run"], row["config"], float(row["least ms"]) / 1000) for row in csv.DictReader(stream)]
    baseline = {run: took for run, config, took in rows if config == "baseline"}
    return {config: took / baseline[run] * baseline[rows[0][0]] for run, config, took in rows}


def gain(results: dict[str, float], base: dict[str, float]) -> float:
    return delta_m(results, {name: base[name] for name in COMPARED})


def after(curve: Curve, steps: float) -> dict[str, float] | None:
    """A curve's results after any number of steps, between two checkpoints; None outside them."""
    low, high = max((s for s in curve if s <= steps), default=None), min((s for s in curve if s >= steps), default=None)
    if low is None or high is None:
        return None
    share = 0.0 if low == high else (steps - low) / (high - low)
    return {name: (1 - share) * value + share * curve[high][name] for name, value in curve[low].items()}


def gains(curves: Curves, seconds: dict[str, float], name: str, steps: int, in_time: bool) -> list[float]:
    """Those of each seed."""
    found = []
    for seed, curve in curves[name].items():
        base = after(curves["baseline"][seed], steps * (seconds[name] / seconds["baseline"] if in_time else 1))
        if steps in curve and base is not None:
            found.append(gain(curve[steps], base))
    return found


def table(curves: Curves, seconds: dict[str, float], steps: int) -> str:
    """What every configuration reaches after so many steps."""
    names = ["mIoU ↑", "parts mIoU ↑", "saliency maxF ↑", "normals ° ↓", "depth cm ↓", "edge odsF ↑"]
    head = ["", "seeds", *names, "Δm, equal steps", "Δm, equal time", "ms/step"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, runs in curves.items():
        found = [curve[steps] for curve in runs.values() if steps in curve]
        if found:
            cells = [spread([SCALE.get(task, 100) * results[METRICS[task]] for results in found]) for task in METRICS]
            for in_time in (False, True):
                each = [] if name == "baseline" else gains(curves, seconds, name, steps, in_time)
                several = f" ({', '.join(f'{value:+.1f}' for value in each)})" if len(each) > 1 else ""
                cells.append(f"{spread(each)}{several}" if each else "")
            lines.append([name, str(len(found)), *cells, f"{1000 * seconds[name]:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(curves: Curves, seconds: dict[str, float], file: Path) -> None:
    """Δm against training time and against steps, over the last result of the longest baseline; a line for each run."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    longest = max(curves["baseline"].values(), key=max)
    reference = longest[max(longest)]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.8), sharey=True, layout="constrained")
    # The longest curves have the ten strong colours of tab20, which alternate with their pale ones.
    colours = [pyplot.get_cmap("tab20")(number) for number in (*range(0, 20, 2), *range(1, 20, 2))]
    ordered = sorted(curves.items(), key=lambda named: -max(max(curve) for curve in named[1].values()))
    for (name, runs), colour in zip(ordered, itertools.cycle(colours)):
        options: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "label": name}
        for curve in runs.values():
            values = [gain(results, reference) for results in curve.values()]
            axes[0].plot([step * seconds[name] for step in curve], values, **options)
            axes[1].plot(list(curve), values, **options)
            options["label"] = None
    axes[0].set(xlabel="training time of one thread, s", ylabel="Δm over the baseline's last result, %")
    axes[1].set(xlabel="steps of 8 images")
    for axis in axes:
        # What comes before is mostly the distance of depth, far below everything else.
        axis.set_ylim(-60, 3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False, loc="lower right", fontsize="small")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=LOGS)
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 300, 450, 600, 750])
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    curves, seconds = read(args.logs), costs(args.logs)
    for steps in args.steps:
        print(f"After {steps} steps:\n\n{table(curves, seconds, steps)}\n")
    if args.plot:
        plot(curves, seconds, args.plot)


if __name__ == "__main__":
    main()
