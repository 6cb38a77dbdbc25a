"""Whole models against the released form, in one run: time, training step of the head, memory, and cost by size.

    python -m tests.benchmarks.models [--threads 2] [--rounds 5] [--backbone swin_tiny] [--device cpu]
    python -m tests.benchmarks.models --plot cost.png
    python -m tests.benchmarks.models --steps [--rounds 7]

The first command prints tables of ratios (medians over interleaved rounds); peak memory is of a process of its own a
line. The second measures time and memory of the fused models on images from 256x512 to 1024x2048 and plots them.
The third prints what a training step of each family costs, in steps of the multi-task baseline: processor time of one
thread, interleaved, so that other work on the machine hardly counts.
"""

import argparse
import statistics
import time
from functools import partial

import torch

import demt
from demt.inference.benchmark import Cost, Setting, in_own_process, measure, time_run
from demt.inference.cost import count_multiply_adds
from tests.benchmarks.released_form import ReleasedForm

FAMILIES = ("demt", "demtg", "degmix")
SIZE = (448, 576)
SIZES = ((256, 512), (384, 768), (512, 1024), (768, 1536), (1024, 2048))


def ways(name, device, dtype, compiled):
    torch.manual_seed(0)
    model = demt.create_model(name).eval().to(device, dtype)
    out = {"released form": ReleasedForm(model).eval(), "eager": model, "fused": demt.fuse(model)}
    if compiled:
        out["fused, compiled"] = torch.compile(demt.fuse(model))
    return out


def interleaved(runs, device, rounds):
    times = {way: [] for way in runs}
    for round_ in range(rounds + 1):
        for way, run in runs.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first round warms up
                times[way].append(time.perf_counter() - start)
    return {way: statistics.median(each) for way, each in times.items()}


def deviation(expected, got):
    return max((got[t] - v).float().square().mean().sqrt().item() / v.float().std().item() for t, v in expected.items())


def memory_of(way, name, threads, size):
    return in_own_process(_memory_of, way, name, threads, size)


def _memory_of(way, name, threads, size):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = demt.create_model(name).eval()
    run = {"released form": ReleasedForm, "fused": demt.fuse}.get(way, lambda m: m)(model).eval()
    del model
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        return time_run(lambda: run(images), "cpu", 0)


def step(head, levels, size):
    sum(out.square().mean() for out in head(levels, size).values()).backward()
    head.zero_grad(set_to_none=True)


def steps(options):
    """Forward and backward pass of whole models, on 8 images of 96x128 with the six tasks of the rooms."""
    torch.set_num_threads(1)
    images = torch.randn(8, 3, 96, 128)
    names = [f"{family}_nano.rooms" for family in ("multitask_baseline", *options.families)]
    models = {name: demt.create_model(name, pretrained=False).train() for name in names}
    times = {name: [] for name in names}
    for round_ in range(options.rounds + 2):
        for name, model in models.items():
            start = time.process_time()
            sum(out.square().mean() for out in model(images).values()).backward()
            model.zero_grad(set_to_none=True)
            if round_ > 1:
                times[name].append(time.process_time() - start)
    baseline = times[names[0]]
    print("| | minimum, s | median, s | ratio of minima | ratio of medians |\n|---|---|---|---|---|")
    for name, each in times.items():
        ratios = [min(each) / min(baseline), statistics.median(each) / statistics.median(baseline)]
        print(f"| {name} | {min(each):.3f} | {statistics.median(each):.3f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


def table(name, options):
    device, dtype = options.device, getattr(torch, options.dtype)
    models = ways(name, device, dtype, options.compiled)
    images = torch.randn(1, 3, *SIZE, device=device, dtype=dtype)
    with torch.no_grad():
        outputs = {way: model(images) for way, model in models.items()}
        levels = [level.clone() for level in models["eager"].backbone(images)]
        whole = interleaved({way: partial(model, images) for way, model in models.items()}, device, options.rounds)
        parts = {way: model for way, model in models.items() if hasattr(model, "backbone")}
        heads = interleaved({w: partial(m.head, levels, SIZE) for w, m in parts.items()}, device, options.rounds)
    steps = interleaved(
        {w: partial(step, models[w].head.train(), levels, SIZE) for w in ("released form", "eager")},
        device,
        max(options.rounds // 2, 2),
    )
    multiply_adds = count_multiply_adds(models["eager"].config, SIZE) / 1e9
    print(f"\n{name}, {SIZE[0]}x{SIZE[1]}, {options.dtype}, {device}: {multiply_adds:.0f} G multiply-adds\n")
    columns = "whole, s | ratio | head, s | ratio | training step of the head, s | ratio | peak MB (above idle)"
    print(f"| | {columns} | deviation |")
    print("|---|---|---|---|---|---|---|---|---|")
    for way in models:
        cells = [f"{whole[way]:.3f}", f"{whole['released form'] / whole[way]:.2f}"]
        for times in (heads, steps):
            cells += [f"{times[way]:.3f}", f"{times['released form'] / times[way]:.2f}"] if way in times else ["", ""]
        memory = memory_of(way, name, options.threads, SIZE) if device == "cpu" and "compiled" not in way else ""
        if isinstance(memory, Cost):
            memory = f"{memory.memory / 1e6:.0f} ({(memory.memory - memory.idle_memory) / 1e6:.0f})"
        cells.append(str(memory))
        cells.append(f"{deviation(outputs['released form'], outputs[way]):.1e}")
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def plot(path, options):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    print("| | " + " | ".join(f"{h}x{w}" for h, w in SIZES) + " |\n" + "|---" * (len(SIZES) + 1) + "|")
    for family in FAMILIES:
        name = f"{family}_{options.backbone}.nyud"
        costs = []
        for size in SIZES:
            cost = in_own_process(
                measure, Setting(model=name, way="fused", size=size, threads=options.threads, seconds=1)
            )
            assert isinstance(cost, Cost), cost
            costs.append(cost)
        pixels = [height * width / 1e6 for height, width in SIZES]
        times.plot(pixels, [cost.seconds for cost in costs], "o-", label=family)
        memory.plot(pixels, [cost.memory / 1e9 for cost in costs], "o-", label=family)
        cells = [f"{cost.seconds:.2f} s, {cost.memory / 1e9:.2f} GB" for cost in costs]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for axes, label in ((times, "seconds an image"), (memory, "peak memory of the process, GB")):
        axes.set(xlabel="megapixels", ylabel=label, xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    times.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="swin_tiny")
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile too; takes minutes")
    parser.add_argument("--plot", metavar="PNG", help="instead: cost by image size")
    parser.add_argument("--steps", action="store_true", help="instead: training steps against the baseline's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threads = 1 if options.steps else options.threads
    print(f"torch {torch.__version__}, {threads} threads, {torch.backends.cpu.get_cpu_capability()}")
    if options.steps:
        steps(options)
    elif options.plot:
        plot(options.plot, options)
    else:
        for family in options.families:
            table(f"{family}_{options.backbone}.nyud", options)


if __name__ == "__main__":
    main()
