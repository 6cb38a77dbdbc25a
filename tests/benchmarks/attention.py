"""Processor time and memory of every attention of the interaction and query blocks, against pixels.

    python -m tests.benchmarks.attention [--tasks 5] [--channels 64] [--rounds 3] [--plot attention.png]

One image on one thread. A step is forward and backward of one interaction block, or of a query block for each task.
Times are processor seconds, the ways interleaved; memory is the most that torch's allocator held at a time beyond the
inputs. A way whose last step took more than LIMIT seconds is left out at larger sizes.
"""

import argparse
import statistics
import time
from typing import get_args

import torch

from demt.config import InteractionAttention, QueryAttention
from demt.layers import TaskInteractionBlock, TaskQueryBlock
from tests.ops.test_deform_mix import peak_in_maps

SIZES = [(12, 16), (24, 32), (36, 48), (48, 64), (60, 80)]
LIMIT = 1.0
HEADS = 4


def interaction(attention, channels, tasks):
    block = TaskInteractionBlock(channels, heads=HEADS, attention=attention)
    return list(block.parameters()), block


def queries(attention, channels, tasks):
    blocks = [TaskQueryBlock(channels, heads=HEADS, attention=attention) for _ in range(tasks)]

    def ask(maps):
        return torch.stack([block(x, maps) for block, x in zip(blocks, maps.unbind(1))], 1)

    return [p for block in blocks for p in block.parameters()], ask


BLOCKS = {"interaction": (interaction, get_args(InteractionAttention)), "query": (queries, get_args(QueryAttention))}


def steps(block, options, size):
    """For each attention a function that makes a step with the maps of an image, and one that only goes forward."""
    build, attentions = BLOCKS[block]
    found = {}
    for attention in attentions:
        torch.manual_seed(0)
        parameters, function = build(attention, options.channels, options.tasks)

        def step(maps, function=function, parameters=parameters):
            maps = maps.detach().requires_grad_()
            torch.autograd.grad(function(maps).square().mean(), [maps, *parameters], allow_unused=True)

        def forward(maps, function=function):
            with torch.no_grad():
                function(maps)

        found[attention] = step, forward
    return found


def processor_time(function, maps):
    start = time.process_time()
    function(maps)
    return time.process_time() - start


def measure(block, options, costs):
    """Fill costs[block, attention] with (pixels, step, least step, forward, megabytes), a row for each size."""
    slow = set()
    for size in SIZES:
        maps = torch.randn(1, options.tasks, options.channels, *size)
        ways = {name: way for name, way in steps(block, options, size).items() if name not in slow}
        times = {name: ([], []) for name in ways}
        for round_ in range(options.rounds + 1):
            for name, way in ways.items():
                for function, taken in zip(way, times[name]):
                    seconds = processor_time(function, maps)
                    if round_:  # the first round warms up
                        taken.append(seconds)
        for name, (step, forward) in times.items():
            megabytes = peak_in_maps(ways[name][0], maps) * maps.numel() * maps.element_size() / 1e6
            row = (size[0] * size[1], statistics.median(step), min(step), statistics.median(forward), megabytes)
            costs.setdefault((block, name), []).append(row)
            print(
                f"| {block} | {name} | {size[0]}x{size[1]} | {1e3 * row[1]:.1f} | {1e3 * row[2]:.1f} "
                f"| {1e3 * row[3]:.1f} | {megabytes:.0f} |",
                flush=True,
            )
            if min(step) > LIMIT:
                slow.add(name)


def plot(path, costs):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.4), layout="constrained", sharex=True)
    colours = {"pointwise": "C7", "pixelwise": "C7", "linear": "C2", "global": "C3", "window": "C0", "deformable": "C1"}
    for row, block in zip(axes, BLOCKS):
        title = "interaction block" if block == "interaction" else "query blocks of all tasks"
        for panel, column, scale, label in ((row[0], 1, 1, "seconds a step"), (row[1], 4, 1e-3, "gigabytes a step")):
            lines = {name: rows for (of, name), rows in costs.items() if of == block}
            for name, rows in lines.items():
                pixels = [each[0] for each in rows]
                panel.plot(pixels, [scale * each[column] for each in rows], "o-", ms=4, label=name, color=colours[name])
            # The quadratic line leaves the picture, so that the others can be told apart.
            highest = max(scale * each[column] for name, rows in lines.items() if name != "global" for each in rows)
            panel.set(title=title, ylabel=label, xlim=(0, None), ylim=(0, 1.3 * highest))
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.3)
        row[0].legend(frameon=False)
    for panel in axes[1]:
        panel.set(xlabel="pixels of the map")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", metavar="PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {options.tasks} tasks")
    print(
        "| block | attention | map | step: median ms | least ms | forward: median ms | step: MB |\n" + "|---" * 7 + "|"
    )
    costs: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for block in BLOCKS:
        measure(block, options, costs)
    if options.plot:
        plot(options.plot, costs)


if __name__ == "__main__":
    main()
