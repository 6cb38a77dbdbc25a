"""Seconds an image of the boundary evaluation: this package against plain references, on one core.

    taskset -c 0 python -m tests.benchmarks.boundary

Every figure is the CPU time of thinning and matching (and suppression, where there is one) of one stored image at all
thresholds; with numba the quickest of three runs after a warm-up, else of one run. The plain reference is
`skimage.morphology.thin` and `scipy.sparse.csgraph.maximum_flow`. The C++ figure, matching only, was measured once with
the `correspondPixels` of the BSDS500 bench (see tests/golden/boundary/README.md) and is only repeated here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import cKDTree
from skimage import morphology

from demt.cli.boundary import _counts
from demt.metrics.boundary.files import BoundarySettings
from demt.metrics.boundary.inputs import BSDS_THRESHOLDS
from demt.metrics.boundary.nms import PRESETS, suppress
from demt.metrics.functional import boundary_counts
from tests.metrics import boundary_golden as golden

#: Seconds of the C++ on one core, matching only.
CPP = {"nyud_like.bsds.0.011": 130, "nyud_like.seism.0.011": 115, "pascal_like.bsds.0.0075": 33}
CPP["pascal_like.seism.0.0075"] = 32


def plain(probability, target, *, max_distance, thresholds, nms, thin):
    assert thin
    soft = probability / 255
    if nms:
        soft = suppress(soft, PRESETS[nms])
    truth = np.argwhere(target == 1)
    tree, reach = cKDTree(truth), max_distance * np.hypot(*target.shape)
    matched = []
    for threshold in thresholds:
        pixels = np.argwhere(morphology.thin(soft > threshold if nms else soft >= threshold))
        near = tree.query_ball_point(pixels, reach)
        count = 2 + len(pixels) + len(truth)
        sources = np.repeat(np.arange(len(pixels)), [len(n) for n in near])
        sinks = np.concatenate([*near, []]).astype(int)
        rows = [np.zeros(len(pixels), int), 2 + sources, 2 + len(pixels) + np.arange(len(truth))]
        columns = [2 + np.arange(len(pixels)), 2 + len(pixels) + sinks, np.ones(len(truth), int)]
        ones = np.ones(sum(map(len, rows)), np.int32)
        graph = csr_matrix((ones, (np.concatenate(rows), np.concatenate(columns))), (count, count))
        matched.append(maximum_flow(graph, 0, 1).flow_value)
    return np.array(matched)


def measure(function, repeats):
    """CPU seconds of the quickest run, and the result: other work on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def compare(key, cpp):
    """A line of the table; the three ways must give the same counts."""
    probability, target, settings = golden.case(key)
    numba, numpy = (partial(boundary_counts, probability, target, backend=b, **settings) for b in ("numba", "numpy"))
    numba()
    compiled, counts = measure(numba, 3)
    interpreted, same = measure(numpy, 1)
    reference, matched = measure(partial(plain, probability, target, **settings), 1)
    np.testing.assert_array_equal(counts.matched, same.matched)
    np.testing.assert_array_equal(counts.matched, matched)
    print(
        f"| {key} | {cpp} s | {reference:.1f} s | {interpreted:.2f} s | {compiled:.2f} s "
        f"| {cpp / interpreted:.0f} | {cpp / compiled:.0f} | {reference / compiled:.0f} |"
    )


def images_a_minute(count, jobs):
    """Files through the same process pool as `demt eval-boundary`, start-up included."""
    inputs = golden.load("inputs")
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for k in range(count):
            name, turn = ("nyud_like", "nyud_dense")[k % 2], (1, -1)[k // 2 % 2]
            pair = tuple(Path(folder) / f"{part}{k}.png" for part in ("pred", "gt"))
            for path, part in zip(pair, ("pred", "gt")):
                Image.fromarray(np.ascontiguousarray(inputs[f"{name}.{part}"][:, ::turn])).save(path)
            pairs.append(pair)
        settings = BoundarySettings(
            max_distance=0.011, thresholds=BSDS_THRESHOLDS, nms=None, gt="seism", backend="numba"
        )
        start = time.perf_counter()
        list(_counts(pairs, settings, jobs))
        return count / (time.perf_counter() - start) * 60


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40, help="images of the batch")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    print("| image | C++, matching only | plain | NumPy | numba | C++/NumPy | C++/numba | plain/numba |")
    print("|---|---|---|---|---|---|---|---|")
    for key, cpp in CPP.items():
        compare(key, cpp)
    rate = images_a_minute(options.images, options.jobs)
    print(f"\n{rate:.0f} images of 425x560 a minute with {options.jobs} processes (no suppression, numba)")


if __name__ == "__main__":
    main()
