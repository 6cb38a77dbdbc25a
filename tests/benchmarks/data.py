"""Processor time to read samples with the published training transforms, over decoding the same files and nothing else.

python -m tests.benchmarks.data

Data sets at their real sizes are written to a temporary folder; one thread, rounds interleaved.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat

from demt.data import Cityscapes, MultiTaskDataset, NYUDv2, PASCALContext, transforms
from tests.data import writers

SAMPLES, ROUNDS = 8, 5
SIZES = {"nyud atrc": (425, 560), "nyud vandenhende": (480, 640), "nyud astmt": (425, 560), "pascal atrc": (375, 500)}
SIZES |= {"cityscapes raw": (1024, 2048), "cityscapes mtan_7": (128, 256)}


def decode(folder: Path) -> Callable[[], None]:
    """Decode every file of a data set, with the libraries alone."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg", ".npy", ".mat")]

    def run() -> None:
        for path in files:
            if path.suffix == ".npy":
                np.load(path)
            elif path.suffix == ".mat":
                loadmat(path)
            else:
                np.asarray(Image.open(path))

    return run


def open_dataset(name: str, root: Path, cache: Path, *, train: bool) -> MultiTaskDataset:
    """The data set with or without its training transform."""
    dataset, layout = name.split()
    protocol = "mtan" if layout == "mtan_7" else None
    size = SIZES[name] if layout == "vandenhende" else None
    transform = transforms.train_transform(dataset, protocol=protocol, size=size) if train else None
    if dataset == "pascal":
        return PASCALContext(root, "val", transform=transform, cache_dir=cache)
    kind = NYUDv2 if dataset == "nyud" else Cityscapes
    return kind(root, "val", transform=transform, layout=layout)


def write(name: str, root: Path) -> None:
    """Write the data set."""
    dataset, layout = name.split()
    ids = [str(number) for number in range(SAMPLES)]
    if dataset == "nyud":
        writers.nyud(root, layout, ids, size=SIZES[name])
    elif dataset == "pascal":
        writers.pascal(root, ids, size=SIZES[name])
    else:
        writers.cityscapes(root, layout, SAMPLES, "val", size=SIZES[name])


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one call: the machine may be busy with other things, and there is one thread."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Print one line a data set: milliseconds a sample, and ratios to decoding."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'':20s} {'decode':>8s} {'read':>8s} {'train':>8s}   (ms)   read/decode  train/decode  samples/s")
    for name in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root, cache = Path(folder) / "data", Path(folder) / "cache"
            write(name, root)
            plain, train = (open_dataset(name, root, cache, train=flag) for flag in (False, True))
            first = seconds(lambda plain=plain: list(plain))  # type: ignore[misc]
            runs = [decode(root), lambda plain=plain: list(plain), lambda train=train: list(train)]  # type: ignore[misc]
            times = [[seconds(run) for run in runs] for _ in range(ROUNDS)]
            only, read, full = (1e3 * statistics.median(column) / SAMPLES for column in zip(*times))
            print(
                f"{name:20s} {only:8.1f} {read:8.1f} {full:8.1f} {'':8s} {read / only:11.2f} {full / only:13.2f} "
                f"{1e3 / full:10.1f}   first read {1e3 * first / SAMPLES:.1f} ms"
            )


if __name__ == "__main__":
    main()
