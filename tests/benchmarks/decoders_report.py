"""The table and the plot of the curves that `tests.benchmarks.decoders` wrote.

python -m tests.benchmarks.decoders_report [--steps 400] [--plot docs/comparison.png]

Gains are Δm over the baseline, without human parts. In the table they are those at equal steps, over the baseline of
the same seed; in the plot every curve is compared with one result, the last of the longest baseline. Time is the number
of steps times the seconds of a step in `steps.csv`, measured in turns, so that it does not depend on what else the
machine did.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

from demt.metrics import delta_m
from tests.benchmarks.comparison import METRICS, SCALE, spread

LOGS = Path("docs/logs/decoders")
COMPARED = [task for task in METRICS if task != "human_parts"]
#: Results by configuration, seed and step.
Curves = dict[str, dict[tuple[int, str], dict[int, dict[str, float]]]]


def read(folder: Path = LOGS) -> Curves:
    """Each run under its seed and the suffix of its file; single-task models of a seed are one configuration."""
    curves: Curves = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for file in sorted(folder.glob("*.*.csv")):
        for row in csv.DictReader(file.open(encoding="utf-8")):
            name = "single-task models" if row["config"] in METRICS else row["config"]
            suffix = ".".join(file.name.split(".")[2:-1])
            values = {key: float(value) for key, value in row.items() if key in METRICS.values()}
            curves[name][int(row["seed"]), suffix][int(row["step"])] |= values
    return curves


def costs(folder: Path = LOGS) -> dict[str, float]:
    """Seconds of a training step, by configuration."""
    with (folder / "steps.csv").open(encoding="utf-8") as stream:
        found = {row["config"]: float(row["least ms"]) / 1000 for row in csv.DictReader(stream)}
    if all(task in found for task in METRICS):
        found["single-task models"] = sum(found[task] for task in METRICS)
    return found


def gain(results: dict[str, float], base: dict[str, float]) -> float:
    return delta_m(results, {METRICS[task]: base[METRICS[task]] for task in COMPARED})


def table(curves: Curves, seconds: dict[str, float], steps: int) -> str:
    """What every configuration reaches after so many steps."""
    head = ["", "seeds", *METRICS, "Δm at equal steps", "by seed", "ms/step"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    base = curves["baseline"]
    for name, runs in curves.items():
        found = {
            seed: run[steps] for (seed, _), run in runs.items() if steps in run and len(run[steps]) == len(METRICS)
        }
        bases = {seed: run[steps] for (seed, _), run in base.items() if steps in run}
        if not found:
            continue
        cells = [spread([SCALE.get(task, 100) * run[METRICS[task]] for run in found.values()]) for task in METRICS]
        gains = [gain(run, bases[seed]) for seed, run in found.items() if seed in bases]
        each = ", ".join(f"{value:+.1f}" for value in gains)
        took = f"{1000 * seconds[name]:.0f}" if name in seconds else ""
        lines.append([name, str(len(found)), *cells, spread(gains) if gains else "", each, took])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(curves: Curves, seconds: dict[str, float], file: Path) -> None:
    """Δm against training time, one line for each run."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    longest = max(curves["baseline"].values(), key=max)
    reference = longest[max(longest)]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for number, (name, runs) in enumerate(item for item in curves.items() if item[0] in seconds):
        options: dict[str, Any] = {"color": colours[number % 20], "linewidth": 2 if number < 10 else 1.2}
        for run in runs.values():
            steps = [step for step in sorted(run) if len(run[step]) == len(METRICS)]
            gains = [gain(run[step], reference) for step in steps]
            marks = {"marker": "o", "markersize": 3, "label": name, **options}
            axes[0].plot([step * seconds[name] for step in steps], gains, **marks)
            axes[1].plot(steps, gains, **marks)
            options["label"] = None
    for axis, label in zip(axes, ("processor time of training, s", "steps")):
        axis.set(xlabel=label, xscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Δm over the longest baseline's end, %")
    axes[1].legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110)


def crossings(curves: Curves, seconds: dict[str, float], name: str) -> list[str]:
    """The gain over the baseline in equal time, at each checkpoint; the baseline is interpolated between its own."""
    lines = []
    for (seed, suffix), run in curves[name].items():
        base = curves["baseline"].get((seed, suffix))
        for step in sorted(run):
            done = step * seconds[name] / seconds["baseline"]
            before = max((s for s in base or () if s <= done), default=None)
            after = min((s for s in base or () if s >= done), default=None)
            if base is None or before is None or after is None:
                continue
            share = 0.0 if before == after else (done - before) / (after - before)
            there = {k: (1 - share) * v + share * base[after][k] for k, v in base[before].items()}
            lines.append(
                f"{name}, seed {seed}, {step} steps, {step * seconds[name]:.0f} s: {gain(run[step], there):+.1f}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=LOGS)
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 400])
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    curves, seconds = read(args.logs), costs(args.logs)
    for steps in args.steps:
        print(f"After {steps} steps:\n\n{table(curves, seconds, steps)}\n")
    for name in curves:
        if name in seconds and name != "baseline":
            print("\n".join(crossings(curves, seconds, name)))
    if args.plot:
        plot(curves, seconds, args.plot)


if __name__ == "__main__":
    main()
