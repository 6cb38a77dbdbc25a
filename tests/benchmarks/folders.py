"""`demt predict` on pictures of mixed sizes, some broken, against a loop over `demt.predict` that writes the same.

python -m tests.benchmarks.folders [--count 2000] [--broken 20] [--few 200] [--model demt_nano.rooms] [--save arrays]

Rounds take turns: the loop, then `predict_folder`. Printed are pictures a second of each by the clock and by CPU time
(of all threads), and the memory that a process adds for FEW and for COUNT pictures. Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(240, 320), (320, 240), (480, 640), (375, 500), (200, 300)]

RUN = """
import json, re, sys, time
from pathlib import Path
import torch
import demt
from demt.files import write_whole
from demt.inference.folder import predict_folder
from demt.inference.pictures import find_pictures
from demt.inference.save import encode, writer

how, name, pictures, out, save, count, threads, batch_size = json.loads(sys.argv[1])
out, save = Path(out), save.split(",")
model = demt.create_model(name, pretrained=True).eval()
demt.predict(model, torch.zeros(3, 64, 64))
found = find_pictures(pictures)[:count]

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

def loop():
    for picture in found:
        try:
            prediction = demt.predict(model, picture.path)
        except ValueError:
            continue
        for ending, contents in encode(prediction.tasks, prediction, prediction.image, save).items():
            target = out / f"{picture.name}{ending}"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, writer(contents))

def folder():
    for saved in predict_folder(model, found, out, save=save, threads=threads, batch_size=batch_size):
        pass

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
{"loop": loop, "folder": folder}[how]()
clock, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps([clock, cpu, status("VmHWM") - before, len(list(out.rglob("*.npz")))]))
"""


def write_pictures(folder: Path, count: int, broken: int) -> None:
    """Smooth noise as JPEG; every so many is cut off."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = SIZES[rng.integers(len(SIZES))]
        small = Image.fromarray(rng.integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8))
        file = folder / f"{number // 1000}" / f"{number:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small.resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
        if broken and number % (count // broken) == 7:
            file.write_bytes(file.read_bytes()[:500])


def run(how: str, *arguments: object) -> list[float]:
    with tempfile.TemporaryDirectory() as out:
        name, pictures, *rest = arguments
        argument = json.dumps([how, name, pictures, out, *rest])
        done = subprocess.run([sys.executable, "-c", RUN, argument], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    numbers: list[float] = json.loads(done.stdout)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="demt_nano.rooms")
    parser.add_argument("--save", default="arrays")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as pictures:
        write_pictures(Path(pictures), arguments.count, arguments.broken)
        common = (arguments.model, pictures, arguments.save)
        rest = (arguments.threads, arguments.batch_size)
        times: dict[str, list[list[float]]] = {"loop": [], "folder": []}
        for number in range(arguments.rounds):
            for how, rows in times.items():
                rows.append(run(how, *common, arguments.count, *rest))
                clock, cpu, memory, files = rows[-1]
                print(
                    f"round {number + 1}, {how}: {files:.0f} pictures, {files / clock:.2f} a second, "
                    f"{files / cpu:.2f} a CPU second, {memory:.0f} MiB",
                    flush=True,
                )
        best = {how: min(rows) for how, rows in times.items()}
        least = {how: min(row[1] for row in rows) for how, rows in times.items()}
        print(f"by the clock {best['loop'][0] / best['folder'][0]:.2f} times the rate of the loop")
        print(f"by CPU time {least['loop'] / least['folder']:.2f} times")
        few = run("folder", *common, arguments.few, *rest)[2]
        print(f"memory: {few:.0f} MiB for {arguments.few} pictures, {best['folder'][2]:.0f} for {arguments.count}")


if __name__ == "__main__":
    main()
