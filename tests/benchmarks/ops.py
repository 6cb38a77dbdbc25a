"""Times the deformable operators against torchvision's, in one run, interleaved.

    python -m tests.benchmarks.ops [--threads 2] [--rounds 9] [--tries]

One image of 256 channels at 112 x 144, float32. Ratios are medians over the rounds of the first line of each table
divided by the line's own. Torchvision's operator always includes a product of channels (256 x 256); its time alone is
the line "channel product alone". `--tries` instead times the ways of sampling that were tried and not kept: apart,
since numba changes the number of threads of torch's parallel regions.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from demt.ops import best_path, deform_mix, deform_sample, deform_sample_reference

CHANNELS, HEIGHT, WIDTH = 256, 112, 144


def measure(title: str, lines: dict[str, Callable[[], object]], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in lines}
    for round_ in range(rounds + 1):
        for name, function in lines.items():
            start = time.perf_counter()
            function()
            if round_:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    first = statistics.median(next(iter(times.values())))
    print(f"\n| {title} | median ms | least ms | ratio |\n|---|---|---|---|")
    for name, each in times.items():
        median = statistics.median(each)
        print(f"| {name} | {1e3 * median:.1f} | {1e3 * min(each):.1f} | {first / median:.2f} |")


def grid_sample_whole(x: Tensor, offset: Tensor) -> Tensor:
    """`grid_sample` as one would write it: the whole normalised grid, every channel an image of one channel."""
    batch, channels, height, width = x.shape
    dy, dx = offset.reshape(batch, channels, 2, height, width).unbind(2)
    rows, cols = torch.arange(height, dtype=x.dtype)[:, None], torch.arange(width, dtype=x.dtype)
    grid = torch.stack((2 * (cols + dx) / (width - 1) - 1, 2 * (rows + dy) / (height - 1) - 1), dim=-1).flatten(0, 1)
    return F.grid_sample(x.reshape(-1, 1, height, width), grid, align_corners=True).reshape(x.shape)


def torchvision_sample(x: Tensor, offset: Tensor) -> Tensor:
    return deform_conv2d(x, offset, torch.eye(x.shape[1])[:, :, None, None])


def torchvision_mix(x, hidden, offset_weight, offset_bias, weight, bias) -> Tensor:
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    return deform_conv2d(x, offset, weight[:, :, None, None], bias)


def whole_mix(x, hidden, offset_weight, offset_bias, weight, bias) -> Tensor:
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    return F.conv2d(grid_sample_whole(x, offset), weight[:, :, None, None], bias)


def conv_sample_conv(x, hidden, offset_weight, offset_bias, weight, bias) -> Tensor:
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    return F.conv2d(deform_sample(x, offset), weight[:, :, None, None], bias)


def regimes() -> dict[str, list[Tensor]]:
    """Arguments of `deform_mix`: offsets of a few pixels, and those of the released models' initial weights."""
    torch.manual_seed(0)
    x, noise = torch.randn(1, CHANNELS, HEIGHT, WIDTH), torch.randn(1, 18, HEIGHT, WIDTH)
    weight, bias = torch.randn(CHANNELS, CHANNELS) / 16, torch.randn(CHANNELS)
    taps = torch.arange(9)
    coordinates = torch.cat(
        [
            (torch.arange(HEIGHT)[None, :, None] + (taps // 3)[:, None, None]).expand(9, HEIGHT, WIDTH),
            (torch.arange(WIDTH)[None, None] + (taps % 3)[:, None, None]).expand(9, HEIGHT, WIDTH),
        ]
    )
    small = torch.randn(2 * CHANNELS, 9, 3, 3) * 2 / 9
    initial = torch.empty(2 * CHANNELS, 9, 3, 3).uniform_(-1 / 9, 1 / 9)
    zeros = torch.zeros(2 * CHANNELS)
    return {
        "offsets N(0, 2 pixels)": [x, noise, small, zeros, weight, bias],
        "offsets of initial weights": [x, coordinates[None].float(), initial, zeros, weight, bias],
    }


def both_ways(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[[], object]:
    arguments = tuple(each.detach().requires_grad_() for each in arguments)
    grad = torch.randn(1, CHANNELS, HEIGHT, WIDTH)
    return lambda: torch.autograd.grad(function(*arguments), arguments, grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tries", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads; deform_mix: {best_path('cpu')}")
    bind = functools.partial
    for name, arguments in regimes().items():
        x, hidden, offset_weight, offset_bias, weight, _ = arguments
        offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
        lines = {
            "torchvision.ops.deform_conv2d": bind(torchvision_sample, x, offset),
            "four corners written out": bind(deform_sample_reference, x, offset),
            "grid_sample, whole map": bind(grid_sample_whole, x, offset),
            "**deform_sample**": bind(deform_sample, x, offset),
            "channel product alone": bind(torch.matmul, weight, x.flatten(2)),
        }
        if options.tries:
            from tests.benchmarks.ops_tries import tries

            lines |= {key: bind(each, x, offset) for key, each in tries().items()}
            with torch.no_grad():
                measure(f"sampling, forward, {name}", lines, options.rounds)
            continue
        mixes = {
            "convolution + torchvision's": torchvision_mix,
            "convolution, grid_sample of the whole map, 1x1 convolution": whole_mix,
            "convolution, deform_sample, 1x1 convolution": conv_sample_conv,
            "**deform_mix**": deform_mix,
        }
        samples = {
            "torchvision.ops.deform_conv2d": torchvision_sample,
            "grid_sample, whole map": grid_sample_whole,
            "**deform_sample**": deform_sample,
        }
        with torch.no_grad():
            measure(f"sampling, forward, {name}", lines, options.rounds)
            lines = {key: bind(each, *arguments) for key, each in mixes.items()}
            measure(f"mixing, forward, {name}", lines, options.rounds)
        lines = {key: both_ways(each, x, offset) for key, each in samples.items()}
        measure(f"sampling, forward and backward, {name}", lines, options.rounds)
        lines = {key: both_ways(each, *arguments) for key, each in mixes.items()}
        measure(f"mixing, forward and backward, {name}", lines, options.rounds)


if __name__ == "__main__":
    main()
