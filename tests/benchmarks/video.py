"""Memory of a process that predicts on a video, as it goes on, and frames a second of its CPU; on Linux.

python -m tests.benchmarks.video [--frames 1000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

import demt
from demt.inference.video import predict_video


def write_noise(path: Path, frames: int, size: tuple[int, int] = (128, 96)) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height = size
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def resident() -> float:
    """MiB of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = demt.create_model("demt_nano.rooms", pretrained=True).eval()
    seen: list[float] = []

    def note(_: object) -> None:
        seen.append(resident())
        if len(seen) in (50, 100, 200, 500, arguments.frames):
            print(f"after {len(seen)}: {seen[-1]:.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder) / "in.mp4", arguments.frames)
        start = time.process_time()
        out = Path(folder) / "out.mp4"
        summary = predict_video(model, Path(folder) / "in.mp4", out, smoothing=0.2, on_frame=note)
        spent = time.process_time() - start
    print(f"{summary.frames} frames, {summary.frames / spent:.1f} a second of CPU")


if __name__ == "__main__":
    main()
