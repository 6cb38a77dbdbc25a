"""Exported files against the model in torch, and ways to write the deformable operator for onnxruntime.

python -m tests.benchmarks.export [--model degmix_nano] [--size 256x320] [--threads 1] [--rounds 7] [--tries]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import demt
from demt.export.write import export
from demt.ops import deform_mix
from demt.ops.standard import deform_mix_standard


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare(runs: dict[str, Callable[[], object]], rounds: int) -> None:
    """Medians of interleaved rounds, and ratios of the first line's to each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if index:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    print("| | ms | ratio |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1e3 * median:.1f} | {first / median:.2f} |")


def models(name: str, height: int, width: int, threads: int, rounds: int, folder: Path) -> None:
    model = demt.create_model(name, initial_offsets="zero").eval()
    images = torch.randn(1, 3, height, width)
    export(model, folder / "model.onnx")
    export(model, folder / "fixed.onnx", size=(height, width))
    export(model, folder / "model.pt2", format="aoti")
    compiled = torch._inductor.aoti_load_package(str(folder / "model.pt2"))
    open_sizes, fixed = session(folder / "model.onnx", threads), session(folder / "fixed.onnx", threads)
    feed = {"images": images.numpy()}
    with torch.inference_mode():
        runs: dict[str, Callable[[], object]] = {
            "torch": lambda: model(images),
            "onnxruntime": lambda: open_sizes.run(None, feed),
            "onnxruntime, fixed size": lambda: fixed.run(None, feed),
            "AOTInductor": lambda: compiled(images),
        }
        compare(runs, rounds)


class Operator(nn.Module):
    """`deform_mix` with weights of its own, in one of the ways below."""

    def __init__(self, function: Callable[..., Tensor], channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.offset_weight = nn.Parameter(torch.randn(2 * channels, 9, 3, 3) * 2 / 9)
        self.offset_bias = nn.Parameter(torch.zeros(2 * channels))
        self.weight = nn.Parameter(torch.randn(channels, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return self.function(x, hidden, self.offset_weight, self.offset_bias, self.weight, self.bias)


def grid_of_offsets(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """One `grid_sample`, the offsets scaled, swapped and shifted after their convolution."""
    batch, channels, height, width = x.shape
    pairs = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2).reshape(-1, 2, height, width)
    columns = pairs[:, 1] * (2 / width) + (torch.arange(1 - width, width + 1, 2) / width)
    rows = pairs[:, 0] * (2 / height) + (torch.arange(1 - height, height + 1, 2) / height)[:, None]
    maps = x.reshape(batch * channels, 1, height, width)
    sampled = F.grid_sample(maps, torch.stack([columns, rows], -1).clamp(-4, 4), align_corners=False)
    return F.conv2d(sampled.reshape(x.shape), weight[:, :, None, None], bias)


def gathers(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Four gathers from a zero-padded map."""
    batch, channels, height, width = x.shape
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    dy, dx = offset.reshape(batch, channels, 2, height, width).unbind(2)
    y = (dy + torch.arange(1, height + 1)[:, None]).clamp(0, height + 1)
    x_ = (dx + torch.arange(1, width + 1)).clamp(0, width + 1)
    top, left = y.floor(), x_.floor()
    down, right = (y - top).flatten(2), (x_ - left).flatten(2)
    padded = F.pad(x, (1, 2, 1, 2)).flatten(2)
    index = (top * (width + 3) + left).long().flatten(2)
    a, b, c, d = (padded.gather(2, index + step) for step in (0, 1, width + 3, width + 4))
    upper, lower = a + right * (b - a), c + right * (d - c)
    sampled = (upper + down * (lower - upper)).reshape(x.shape)
    return F.conv2d(sampled, weight[:, :, None, None], bias)


def tries(threads: int, rounds: int, folder: Path) -> None:
    channels, height, width = 256, 112, 144
    x, hidden = torch.randn(1, channels, height, width), torch.randn(1, 18, height, width)
    feed = {"x": x.numpy(), "hidden": hidden.numpy()}
    reference = Operator(deform_mix, channels)
    runs: dict[str, Callable[[], object]] = {"`deform_mix` in torch": lambda: reference(x, hidden)}
    ways = {
        "`deform_mix_standard`": deform_mix_standard,
        "grid written after the convolution": grid_of_offsets,
        "four gathers": gathers,
    }
    with torch.inference_mode():
        expected = reference(x, hidden)
    for index, (name, function) in enumerate(ways.items()):
        path = folder / f"{index}.onnx"
        sizes = {2: "height", 3: "width"}
        torch.onnx.export(
            Operator(function, channels),
            (x, hidden),
            path,
            opset_version=20,
            dynamic_shapes=(sizes, sizes),
            verbose=False,
        )
        running = session(path, threads)
        error = (torch.from_numpy(running.run(None, feed)[0]) - expected).abs().max() / expected.std()
        assert error < 1e-3, (name, error)
        runs[f"onnxruntime: {name}"] = lambda running=running: running.run(None, feed)  # type: ignore[misc]
    with torch.inference_mode():
        compare(runs, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="degmix_nano")
    parser.add_argument("--size", default="256x320")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tries", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    height, width = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        if arguments.tries:
            tries(arguments.threads, arguments.rounds, Path(folder))
        else:
            models(arguments.model, height, width, arguments.threads, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
