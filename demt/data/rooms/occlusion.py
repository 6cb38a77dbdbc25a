"""Ambient occlusion from the depth map: corners and the ground under things are darker."""

from __future__ import annotations

import numpy as np

from demt.data.rooms.scene import Floats
from demt.data.rooms.shadows import overlap
from demt.data.rooms.surface import Surface

#: Directions on the image, and steps as shares of its longer side.
_DIRECTIONS = ((1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7))
_STEPS = (0.008, 0.02, 0.045, 0.09)


def openness(seen: Surface, size: tuple[int, int]) -> Floats:
    """How much of the surroundings a point sees (N,), from about 0.3 to 1.

    Every neighbour of a set of pixels hides light as far as it rises over the point's tangent plane, and the less the
    farther away it is.
    """
    p = [v.reshape(size) for v in seen.point]
    n = [v.reshape(size) for v in seen.normal]
    hidden = np.zeros(size, np.float32)
    for step in _STEPS:
        for direction in _DIRECTIONS:
            rows, columns = (round(step * max(size) * d) for d in direction)
            if rows == columns == 0:
                continue
            (r0, r1), (c0, c1) = overlap(rows, size[0]), overlap(columns, size[1])
            a, b = (r0, c0), (r1, c1)
            v = [q[b] - q[a] for q in p]
            square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + np.float32(1e-4)
            # One difference serves both ends of the pair.
            weight = 1 / (np.sqrt(square) * (1 + 6 * square))
            hidden[a] += np.maximum((v[0] * n[0][a] + v[1] * n[1][a] + v[2] * n[2][a]) * weight - np.float32(0.05), 0)
            hidden[b] += np.maximum(-(v[0] * n[0][b] + v[1] * n[1][b] + v[2] * n[2][b]) * weight - np.float32(0.05), 0)
    return (1 / (1 + hidden * np.float32(0.22))).ravel()
