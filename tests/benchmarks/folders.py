"""`demt predict` on pictures of mixed sizes, some broken: rate, memory, kills, two processes. On Linux.

python -m tests.benchmarks.folders [--count 2000] [--broken 20] [--few 200] [--model demt_nano.rooms] [--save arrays]

Rates are of whole processes by the clock, start included: a loop over `demt.predict` that writes the same files, and
the command. Then the command is killed twice (SIGKILL), interrupted (SIGINT) and repeated, and runs as two processes
under torchrun: the files must be those of the undisturbed run, byte for byte, and none be written twice. Memory is the
peak of a process, for FEW and for COUNT pictures. Exits with 1 where something of this does not hold. Meant for two
cores (``taskset -c 0,1``), where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(120, 160), (160, 120), (240, 320), (188, 250), (100, 150)]

LOOP = """
import json, sys
from pathlib import Path
import demt
from demt.files import write_bytes
from demt.inference.pictures import find_pictures
from demt.inference.save import encode

name, pictures, out, save = json.loads(sys.argv[1])
model = demt.create_model(name, pretrained=True).eval()
for picture in find_pictures(pictures):
    try:
        prediction = demt.predict(model, picture.path)
    except ValueError:
        continue
    for ending, contents in encode(prediction.tasks, prediction, prediction.image, save.split(",")).items():
        target = Path(out) / f"{picture.name}{ending}"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, contents)
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


class Run:
    """A process, what it says, and what it cost."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        # A shell's background jobs, of which this may be one, ignore the signal, and so would what they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("w") as file:
            self.start = time.perf_counter()
            self.process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT)

    def finish(self) -> int:
        """Wait for its end and give the exit code; that of a signal is negative."""
        _, status, used = os.wait4(self.process.pid, 0)
        self.seconds = time.perf_counter() - self.start
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu, self.peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10
        return self.process.returncode


def made(out: Path) -> dict[str, tuple[int, int]]:
    """The whole files of a folder, and when each was written."""
    files = [path for path in out.rglob("*") if path.is_file() and ".unfinished" not in path.parts]
    return {str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = made(one)
    return set(names) == set(made(other)) and all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


def stop_at(run: Run, out: Path, count: int, kind: signal.Signals) -> int:
    """Send a signal when so many files are there; gives the exit code."""
    while run.process.poll() is None and len(made(out)) < count:
        time.sleep(0.5)
    if run.process.poll() is None:
        run.process.send_signal(kind)
    try:
        return run.finish()
    except ChildProcessError:
        return run.process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="demt_nano.rooms")
    parser.add_argument("--save", default="arrays")
    arguments = parser.parse_args()
    good = arguments.count - arguments.broken
    faults: list[str] = []

    def hold(fits: bool, what: str) -> None:
        print(f"{what}: {'yes' if fits else 'NO'}", flush=True)
        faults.extend([] if fits else [what])

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root / "pictures", arguments.count, arguments.broken)
        predict = ["predict", "-m", arguments.model, "--save", arguments.save, "-o"]

        def command(out: str, *images: str, launcher: tuple[str, ...] = ()) -> Run:
            given = images or (str(root / "pictures"),)
            return Run(
                ["-m", *launcher, *["-m"] * bool(launcher), "demt", *predict, str(root / out), *given], root / "log"
            )

        times: dict[str, list[float]] = {"loop": [], "demt predict": []}
        for number in range(arguments.rounds):
            loop = json.dumps([arguments.model, str(root / "pictures"), str(root / f"loop{number}"), arguments.save])
            for how in times:
                run = Run(["-c", LOOP, loop], root / "log") if how == "loop" else command(f"whole{number}")
                code = run.finish()
                if code != (how != "loop"):
                    raise RuntimeError((root / "log").read_text())
                times[how].append(run.seconds)
                print(
                    f"{how}: {good} pictures in {run.seconds:.0f} s, {good / run.seconds:.2f} a second, "
                    f"{good / run.cpu:.2f} a CPU second, peak {run.peak:.0f} MiB",
                    flush=True,
                )
        most = run.peak
        said = (root / "log").read_text()
        hold(f"{arguments.broken} of {arguments.count} images have no predictions" in said, "all broken ones are named")
        hold(len(made(root / "whole0")) == len(made(root / "loop0")), "as many files as the loop's")
        print(
            f"by the clock {min(times['loop']) / min(times['demt predict']):.2f} times the rate of the loop", flush=True
        )

        kept: dict[str, tuple[int, int]] = {}
        count = len(made(root / "whole0"))
        for share, kind in ((0.2, signal.SIGKILL), (0.4, signal.SIGKILL), (0.6, signal.SIGINT)):
            code = stop_at(command("stopped"), root / "stopped", int(share * count), kind)
            expected = 130 if kind == signal.SIGINT else -kind
            found = made(root / "stopped")
            hold(code == expected, f"{kind.name} at {len(found)} of {count} files ends it with {expected}")
            hold(kept.items() <= found.items(), "none was written twice")
            kept = found
        hold(command("stopped").finish() == 1, "the last run ends with 1, for the broken ones")
        hold(kept.items() <= made(root / "stopped").items(), "none was written twice")
        hold(same(root / "stopped", root / "whole0"), "byte for byte the files of the undisturbed run")

        two = command("two", launcher=("torch.distributed.run", "--nproc-per-node", "2"))
        hold(two.finish() == 1, f"two processes (gloo, torchrun) end with 1, after {two.seconds:.0f} s")
        hold(same(root / "two", root / "whole0"), "byte for byte the files of one process")

        names = sorted(str(path) for path in (root / "pictures").rglob("*.jpg"))[: arguments.few]
        (root / "list.txt").write_text("\n".join(names))
        few = command("few", f"@{root / 'list.txt'}")
        few.finish()
        print(f"peak memory: {few.peak:.0f} MiB for {arguments.few} pictures, {most:.0f} for {arguments.count}")
    if faults:
        sys.exit(f"Does not hold: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
