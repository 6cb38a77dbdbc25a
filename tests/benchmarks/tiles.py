"""Peak memory and time of predictions on large images, whole and in tiles, each in a process of its own, on Linux.

python -m tests.benchmarks.tiles [--model degmix_swin_tiny] [--threads 1] [--sizes 512x1024 1024x2048 2048x4096]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

MEASURE = """
import json, re, sys, time
from pathlib import Path
import numpy as np, torch
import demt

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

name, height, width, options, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = demt.create_model(name, initial_offsets="zero").eval()
demt.predict(model, np.zeros((64, 64, 3), np.uint8))
image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = status("VmRSS")
start = time.perf_counter()
demt.predict(model, image, batch_size=1, **options)
seconds = time.perf_counter() - start
print(json.dumps([status("VmHWM") - before, seconds]))
"""


def measure(name: str, height: int, width: int, options: dict[str, object], threads: int) -> str:
    """What a prediction adds to the memory of a process, and how long it takes."""
    argument = json.dumps([name, height, width, options, threads])
    run = subprocess.run([sys.executable, "-c", MEASURE, argument], capture_output=True, text=True)
    if run.returncode:
        return "out of memory" if run.returncode < 0 else run.stderr.splitlines()[-1]
    memory, seconds = json.loads(run.stdout)
    return f"{memory:.0f} MiB, {seconds:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="degmix_swin_tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--sizes", nargs="+", default=["512x1024", "1024x2048", "2048x4096"])
    arguments = parser.parse_args()
    print("| image | whole | tiles |\n|---|---|---|")
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        whole, tiled = (
            measure(arguments.model, height, width, options, arguments.threads)
            for options in ({"max_size": max(height, width)}, {"tile": arguments.tile})
        )
        print(f"| {height} x {width} | {whole} | {tiled} |", flush=True)


if __name__ == "__main__":
    main()
