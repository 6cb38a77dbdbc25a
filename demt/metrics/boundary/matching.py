"""One-to-one matching of predicted with true boundary pixels that lie within a tolerance of each other.

A matching of maximum cardinality in the bipartite graph whose edges join a predicted and a true pixel at a distance
within the tolerance. Augmenting paths (Kuhn's method) start from the matching of the previous, higher threshold; a
failed search leaves its marks, because what it reached can end no augmenting path at this threshold.

True pixels are numbered row by row, so that those near a pixel are a few runs of numbers, one for each row within the
tolerance. The graph's edges, as many as true pixels times the tolerance squared, are stored for small images only,
where going through lists is faster in Python.
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


#: Edges that are stored, of all pixels together: 200 MB.
_KEPT = 5_000_000


def count_before(truth: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of true pixels before each pixel, row by row; a last column closes the rows, (H, W + 1)."""
    places = np.zeros((truth.shape[0], truth.shape[1] + 1), np.int32)
    np.cumsum(truth, axis=1, out=places[:, 1:])
    places[1:] += np.cumsum(places[:-1, -1], dtype=np.int32)[:, None]
    return places


def rows_of(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The steps of `offsets_within` as rows, nearest first, and how many columns each reaches to both sides."""
    reach: dict[int, int] = {}
    for row, column in offsets.tolist():
        reach[row] = max(reach.get(row, 0), column)
    return np.array([*reach]), np.array([*reach.values()])


class Matcher:
    """Maximum matching of one image's true pixels with one predicted map after another (NumPy and plain Python).

    Args:
        truth: True boundary map (H, W).
        offsets: Steps from a true pixel to the pixels it may match, nearest first (see `offsets_within`).
    """

    def __init__(self, truth: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
        self._places = count_before(truth)
        self._rows, self._reach = rows_of(offsets)
        self._mate = [-1] * int(truth.sum())
        self._partner = [-1] * truth.size
        self._lists: dict[int, list[int]] = {}
        self._listed = 0
        self._start: NDArray[np.int64] | None = None
        if len(self._mate) * len(offsets) <= _KEPT:
            self._store(truth, offsets)
        self._reachable = self._within_reach().ravel()

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
        if near is None and self._start is not None:
            near = self._lists[pixel] = self._near[self._start[pixel] : self._start[pixel + 1]].tolist()
        elif near is None:
            row, column = divmod(pixel, self._places.shape[1] - 1)
            rows = row + self._rows
            inside = (rows >= 0) & (rows < len(self._places))
            first = np.maximum(column - self._reach, 0)[inside]
            last = np.minimum(column + self._reach + 1, self._places.shape[1] - 1)[inside]
            starts, stops = (self._places[rows[inside], each].tolist() for each in (first, last))
            near = [true for start, stop in zip(starts, stops) for true in range(start, stop)]
            if self._listed < _KEPT:
                self._lists[pixel] = near
                self._listed += len(near) + 1
        return near

    def _store(self, truth: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
        """The true pixels near each pixel, nearest first."""
        height, width = truth.shape
        places = np.stack(np.nonzero(truth)) + offsets[:, :, None]
        inside = ((places >= 0) & (places < np.array([[height], [width]]))).all(1)
        step, true = np.nonzero(inside)
        pixel = places[step, 0, true] * width + places[step, 1, true]
        order = np.argsort(pixel, kind="stable")
        self._near = true[order]
        self._start = np.searchsorted(pixel[order], np.arange(truth.size + 1))

    def _within_reach(self) -> NDArray[np.bool_]:
        """Pixels with a true pixel within the tolerance."""
        height, width = len(self._places), self._places.shape[1] - 1
        margin = int(self._reach.max())
        places = np.pad(self._places, ((0, 0), (margin, margin)), mode="edge")
        found = np.zeros((height, width), np.bool_)
        for row, reach in zip(self._rows.tolist(), self._reach.tolist()):
            last = places[:, margin + reach + 1 : margin + reach + 1 + width]
            any_true = last > places[:, margin - reach : margin - reach + width]
            top, bottom = max(-row, 0), height - max(row, 0)
            found[top:bottom] |= any_true[top + row : bottom + row]
        return found
