"""One-to-one matching of predicted with true boundary pixels that lie within a tolerance of each other.

A matching of maximum cardinality in the bipartite graph whose edges join a predicted and a true pixel at a distance
within the tolerance. Augmenting paths (Kuhn's method) start from the matching of the previous, higher threshold; a
failed search leaves its marks, because what it reached can end no augmenting path at this threshold.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def offsets_within(tolerance: float, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Steps (N, 2) as (row, column) no longer than `tolerance` pixels that stay inside `shape`, nearest first."""
    reach = [min(math.ceil(tolerance), length - 1) for length in shape]
    rows, columns = np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1].reshape(2, -1)
    squared = rows**2 + columns**2
    order = np.argsort(squared, kind="stable")
    order = order[squared[order] <= tolerance * tolerance]
    return np.stack([rows, columns], axis=1)[order]


class Matcher:
    """Maximum matching of one image's true pixels with one predicted map after another (NumPy and plain Python).

    Args:
        truth: True boundary map (H, W).
        offsets: Steps from a true pixel to the pixels it may match, nearest first (see `offsets_within`).
    """

    def __init__(self, truth: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
        height, width = truth.shape
        rows, columns = np.nonzero(truth)
        self._mate = [-1] * len(rows)
        self._partner = [-1] * truth.size
        self._lists: dict[int, list[int]] = {}
        pixels, trues = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for row, column in offsets:
            inside = np.flatnonzero(
                (rows + row >= 0) & (rows + row < height) & (columns + column >= 0) & (columns + column < width)
            )
            pixels.append((rows[inside] + row) * width + columns[inside] + column)
            trues.append(inside)
        pixel = np.concatenate(pixels)
        order = np.argsort(pixel, kind="stable")
        self._near = np.concatenate(trues)[order]
        self._start = np.searchsorted(pixel[order], np.arange(truth.size + 1))
        self._reachable = np.diff(self._start) > 0

    def match(self, predicted: NDArray[np.bool_]) -> int:
        """Number of pairs in a maximum matching with the map `predicted` (H, W)."""
        present = predicted.ravel()
        mate, partner = self._mate, self._partner
        mates = np.array(mate, np.int64)
        for true in np.flatnonzero((mates >= 0) & ~present[mates]).tolist():
            partner[mate[true]] = -1
            mate[true] = -1
        free = [pixel for pixel in np.flatnonzero(present & self._reachable).tolist() if partner[pixel] < 0]
        open_trues = mate.count(-1)
        unmatched = []
        for pixel in free if open_trues else ():
            for true in self._near_to(pixel):
                if mate[true] < 0:
                    mate[true] = pixel
                    partner[pixel] = true
                    open_trues -= 1
                    break
            else:
                unmatched.append(pixel)
        dead: set[int] = set()
        for pixel in unmatched:
            if not open_trues:
                break
            open_trues -= self._augment(pixel, dead)
        return len(mate) - open_trues

    def _augment(self, source: int, dead: set[int]) -> bool:
        """Search breadth first for an augmenting path from `source` and flip it, or add what was reached to `dead`."""
        reached_from: dict[int, int] = {}
        queue = [source]
        for pixel in queue:
            for true in self._near_to(pixel):
                if true in reached_from or true in dead:
                    continue
                reached_from[true] = pixel
                if self._mate[true] < 0:
                    self._flip(true, source, reached_from)
                    return True
                queue.append(self._mate[true])
        dead.update(reached_from)
        return False

    def _flip(self, true: int, source: int, reached_from: dict[int, int]) -> None:
        while True:
            pixel = reached_from[true]
            previous = self._partner[pixel]
            self._mate[true] = pixel
            self._partner[pixel] = true
            if pixel == source:
                return
            true = previous

    def _near_to(self, pixel: int) -> list[int]:
        near = self._lists.get(pixel)
        if near is None:
            near = self._lists[pixel] = self._near[self._start[pixel] : self._start[pixel + 1]].tolist()
        return near
