"""Thinning a binary map to lines one pixel wide.

Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 32(3), 1989 (algorithm A1), until nothing
changes. `skimage.morphology.thin` and MATLAB's ``bwmorph(map, "thin", Inf)`` give the same map.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Neighbours as (row, column) steps, counterclockwise from the east: x1 … x8 of the paper, bit k of a code is x(k+1).
NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _deletable(code: int, second: bool) -> bool:
    """Conditions G1, G2 and G3 of the paper for a pixel whose neighbours are the bits of `code`."""
    x = [bool(code >> k & 1) for k in range(8)]
    ring = [*x, x[0]]
    crossings = sum(not ring[k] and (ring[k + 1] or ring[k + 2]) for k in (0, 2, 4, 6))
    pairs = [a or b for a, b in pairwise(ring)]
    fewest = min(sum(pairs[0::2]), sum(pairs[1::2]))
    kept_side = (x[5] or x[6] or not x[3]) and x[4] if second else (x[1] or x[2] or not x[7]) and x[0]
    return crossings == 1 and 2 <= fewest <= 3 and not kept_side


#: (2, 256): whether a pixel with a neighbour code goes in the first and in the second sub-iteration.
DELETABLE = np.array([[_deletable(code, second) for code in range(256)] for second in (False, True)])


def thin(image: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a map (H, W) until stable; pixels outside the image count as background.

    A pixel is tested again only when one of its neighbours went since its last test, because its code alone decides.
    """
    height, width = image.shape
    stride = width + 2
    padded = np.zeros((height + 2, stride), np.bool_)
    padded[1:-1, 1:-1] = image
    codes = np.zeros(image.shape, np.uint8)
    for bit, (row, column) in enumerate(NEIGHBOURS):
        neighbour = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        codes |= neighbour.view(np.uint8) << np.uint8(bit)
    pixels = padded.ravel()
    steps = np.array([row * stride + column for row, column in NEIGHBOURS])
    pending = [_padded_indices(image & deletable[codes], stride) for deletable in DELETABLE]
    scratch = np.empty(pixels.size, np.intp)
    turn = 0
    while pending[0].size or pending[1].size:
        candidates = pending[turn]
        candidates = candidates[pixels[candidates]]
        around = pixels[candidates[:, None] + steps]
        gone = candidates[DELETABLE[turn][np.packbits(around, axis=1, bitorder="little").ravel()]]
        pixels[gone] = False
        touched = (gone[:, None] + steps).ravel()
        pending[turn] = _once(touched[pixels[touched]], scratch)
        pending[1 - turn] = _once(np.concatenate([pending[1 - turn], pending[turn]]), scratch)
        turn = 1 - turn
    return padded[1:-1, 1:-1].copy()


def _padded_indices(image: NDArray[np.bool_], stride: int) -> NDArray[Any]:
    rows, columns = np.nonzero(image)
    return (rows + 1) * stride + columns + 1


def _once(indices: NDArray[Any], scratch: NDArray[np.intp]) -> NDArray[Any]:
    """Each index once, without sorting: the last place that wrote to it keeps it."""
    places = np.arange(indices.size)
    scratch[indices] = places
    return indices[scratch[indices] == places]  # type: ignore[no-any-return]
