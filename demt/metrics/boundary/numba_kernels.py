"""Thinning and matching compiled with numba; the same results as `thin` and `matching`.

Compiled code is cached on disk where a folder can be written. Kernels call only kernels of this file, because the
cache does not notice a change in another file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from demt.metrics.boundary.matching import count_before, rows_of
from demt.metrics.boundary.thin import DELETABLE, NEIGHBOURS


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        # numba finds no folder for its cache (read-only installation and home): compile in every process instead.
        return numba.njit(function)  # type: ignore[no-any-return]


@_jit
def _thin(image: Any, deletable: Any, neighbours: Any) -> Any:
    height, width = image.shape
    stride = width + 2
    pixels = np.zeros((height + 2) * stride, np.uint8)
    # Bit s of `waiting` says that a pixel stands in the queue of sub-iteration s.
    waiting = np.zeros(pixels.size, np.uint8)
    count = 0
    for row in range(height):
        for column in range(width):
            if image[row, column]:
                pixels[(row + 1) * stride + column + 1] = 1
                count += 1
    queue = np.empty((2, count), np.int32)
    length = np.array([count, count])
    count = 0
    for pixel in range(pixels.size):
        if pixels[pixel]:
            queue[0, count] = queue[1, count] = pixel
            waiting[pixel] = 3
            count += 1
    steps = neighbours[:, 0] * stride + neighbours[:, 1]
    gone = np.empty(count, np.int32)
    turn = 0
    while length[0] or length[1]:
        removed = 0
        for place in range(length[turn]):
            pixel = queue[turn, place]
            waiting[pixel] &= ~np.uint8(1 << turn)
            if pixels[pixel]:
                code = 0
                for k in range(8):
                    code |= pixels[pixel + steps[k]] << k
                if deletable[turn, code]:
                    gone[removed] = pixel
                    removed += 1
        length[turn] = 0
        for place in range(removed):
            pixels[gone[place]] = 0
        for place in range(removed):
            for k in range(8):
                pixel = gone[place] + steps[k]
                if pixels[pixel]:
                    for side in range(2):
                        if not waiting[pixel] >> side & 1:
                            waiting[pixel] |= np.uint8(1 << side)
                            queue[side, length[side]] = pixel
                            length[side] += 1
        turn = 1 - turn
    return pixels.reshape(height + 2, stride)[1:-1, 1:-1] != 0


@_jit
def _rematch(present: Any, places: Any, rows: Any, reach: Any, mate: Any, partner: Any) -> int:
    """Make the matching maximum for the pixels `present`; `mate` (of trues) and `partner` (of pixels) change."""
    height, width = places.shape[0], places.shape[1] - 1
    for true in range(len(mate)):
        if mate[true] >= 0 and not present[mate[true]]:
            partner[mate[true]] = -1
            mate[true] = -1
    free = np.empty(len(present), np.int32)
    count = 0
    for pixel in range(len(present)):
        if present[pixel] and partner[pixel] < 0:
            row, column = divmod(pixel, width)
            reached = False
            for k in range(len(rows)):
                other = row + rows[k]
                if 0 <= other < height:
                    first = places[other, max(column - reach[k], 0)]
                    last = places[other, min(column + reach[k] + 1, width)]
                    reached |= first < last
                    # From the pixel's own column outwards: near pairs leave fewer searches for later.
                    right = min(max(places[other, column], first), last)
                    left = right - 1
                    while left >= first or right < last:
                        if right < last and mate[right] < 0:
                            left = right
                        if left >= first and mate[left] < 0:
                            mate[left] = pixel
                            partner[pixel] = left
                            break
                        left, right = left - 1, right + 1
                    if partner[pixel] >= 0:
                        break
            if reached and partner[pixel] < 0:
                free[count] = pixel
                count += 1
    seen = np.zeros(len(mate), np.bool_)
    reached_from = np.empty(len(mate), np.int32)
    queue = np.empty(len(mate), np.int32)
    for source in free[:count]:
        head = tail = 0
        pixel = source
        found = -1
        while found < 0:
            row, column = divmod(pixel, width)
            for k in range(len(rows)):
                other = row + rows[k]
                if found < 0 and 0 <= other < height:
                    first = places[other, max(column - reach[k], 0)]
                    for true in range(first, places[other, min(column + reach[k] + 1, width)]):
                        if not seen[true]:
                            seen[true] = True
                            reached_from[true] = pixel
                            queue[tail] = true
                            tail += 1
                            if mate[true] < 0:
                                found = true
                                break
            if found >= 0 or head == tail:
                break
            pixel = mate[queue[head]]
            head += 1
        if found >= 0:
            # Only a failed search leaves its marks: nothing it reached can end an augmenting path any more.
            for place in range(tail):
                seen[queue[place]] = False
            while True:
                pixel = reached_from[found]
                previous = partner[pixel]
                mate[found] = pixel
                partner[pixel] = found
                if pixel == source:
                    break
                found = previous
    matched = 0
    for true in range(len(mate)):
        matched += mate[true] >= 0
    return matched


def thin(image: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a map (H, W) until stable; see `demt.metrics.boundary.thin.thin`."""
    return _thin(image, DELETABLE, np.array(NEIGHBOURS))  # type: ignore[no-any-return]


class Matcher:
    """Maximum matching of one image's true pixels with one predicted map after another; see `matching.Matcher`."""

    def __init__(self, truth: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
        self._places = count_before(truth)
        self._disc = rows_of(offsets)
        self._mate = np.full(int(truth.sum()), -1, np.int32)
        self._partner = np.full(truth.size, -1, np.int32)

    def match(self, predicted: NDArray[np.bool_]) -> int:
        """Number of pairs in a maximum matching with the map `predicted`."""
        return int(_rematch(predicted.ravel(), self._places, *self._disc, self._mate, self._partner))
