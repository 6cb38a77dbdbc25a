"""Soft shadows: one ray per pixel to one of 16 points of a light, averaged over 4 × 4 pixels of the same surface.

Neighbours take different points, so that 4 × 4 pixels together see the whole light (interleaved sampling: A. Keller,
W. Heidrich, "Interleaved Sampling", 2001).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms.cast import interval
from demt.data.rooms.parts import BALL, CONE
from demt.data.rooms.scene import Floats, Light, Scene, Sun
from demt.data.rooms.surface import Surface, Triple

#: Order of the light's points over 4 × 4 pixels; neighbours are far apart on the light.
_PATTERN = np.array([[0, 10, 2, 8], [5, 15, 7, 13], [3, 9, 1, 11], [6, 12, 4, 14]])
_SHADOWLESS = ("wall", "floor", "ceiling", "door", "window", "picture", "rug")
_BIAS = np.float32(2e-3)
Mask = NDArray[np.bool_]


class Occluders:
    """The solids that cast shadows, thing by thing, with bounding spheres."""

    def __init__(self, scene: Scene) -> None:
        glows = np.array([s.glow > 0 for s in scene.materials]).take(scene.material)
        names = np.array(scene.names)
        casts = ~np.isin(names[scene.instance], _SHADOWLESS) & ~glows
        self.kind, self.taper = scene.kind, scene.taper
        self.matrix, self.centre = scene.matrix.astype(np.float32), scene.centre.astype(np.float32)
        self.radius = _radii(scene)
        self.things: list[tuple[NDArray[np.float32], float, list[int]]] = []
        for i in range(6, len(names)):
            members = np.flatnonzero((scene.instance == i) & casts)
            if members.size:
                low = (self.centre[members] - self.radius[members, None]).min(0)
                high = (self.centre[members] + self.radius[members, None]).max(0)
                middle = (low + high) / 2
                gaps = np.sqrt(((self.centre[members] - middle) ** 2).sum(1)) + self.radius[members]
                self.things.append((middle, float(gaps.max()), members.tolist()))

    def blocked(self, start: Triple, way: Triple) -> Mask:
        """Whether something lies between the points `start` and `start + way` (N,)."""
        found = np.zeros(start[0].shape, bool)
        square = way[0] * way[0] + way[1] * way[1] + way[2] * way[2]
        for middle, radius, members in self.things:
            near = np.flatnonzero(self._meets(start, way, square, middle, radius))
            if not near.size:
                continue
            s, w = tuple(v[near] for v in start), tuple(v[near] for v in way)
            found[near] |= self._hit(s, w, square[near], members)  # type: ignore[arg-type]
        return found

    def _hit(self, start: Triple, way: Triple, square: Floats, members: list[int]) -> Mask:
        found = np.zeros(start[0].shape, bool)
        for k in members:
            near = np.flatnonzero(self._meets(start, way, square, self.centre[k], float(self.radius[k])) & ~found)
            if not near.size:
                continue
            p = [start[i][near] - self.centre[k, i] for i in range(3)]
            v = [way[i][near] for i in range(3)]
            rows = self.matrix[k]
            o = tuple(rows[i, 0] * p[0] + rows[i, 1] * p[1] + rows[i, 2] * p[2] for i in range(3))
            d = tuple(rows[i, 0] * v[0] + rows[i, 1] * v[1] + rows[i, 2] * v[2] for i in range(3))
            first, last = interval(int(self.kind[k]), float(self.taper[k]), o, d)
            found[near[(first <= last) & (last > 0) & (first < 1)]] = True
        return found

    @staticmethod
    def _meets(start: Triple, way: Triple, square: Floats, centre: NDArray[np.float32], radius: float) -> Mask:
        """Whether segments pass a sphere."""
        x, y, z = (np.float32(c) - p for c, p in zip(centre, start))
        along = x * way[0] + y * way[1] + z * way[2]
        apart = x * x + y * y + z * z
        reach = np.float32(radius * radius)
        return (along > 0) & ((apart - reach) * square < along * along) | (apart < reach)


def _radii(scene: Scene) -> Floats:
    """Radius of the sphere around each solid: to a box's corner, a cone's rim, a ball's farthest point."""
    half = scene.half
    rim = half[:, :2].max(1) * np.maximum(scene.taper, 1)
    cone = np.sqrt(rim**2 + half[:, 2] ** 2)
    radii: Floats = np.select(
        [scene.kind == BALL, scene.kind == CONE], [half.max(1), cone], np.sqrt((half**2).sum(1))
    ).astype(np.float32)
    return radii


def light_points(light: Light, size: tuple[int, int]) -> Triple:
    """The point of the light that each pixel of an image looks at: three arrays (N,)."""
    height, width = size
    pattern = np.tile(_PATTERN, (height // 4 + 1, width // 4 + 1))[:height, :width].ravel()
    x, y, z = (light.points[:, i].take(pattern) for i in range(3))
    return x, y, z


def visibility(occluders: Occluders, seen: Surface, target: Triple, lit: Mask) -> Floats:
    """1 where a point sees its target (N,), 0 where something is between; only points in `lit` are looked at."""
    where = np.flatnonzero(lit)
    start = tuple(p[where] + n[where] * _BIAS for p, n in zip(seen.point, seen.normal))
    way = tuple(t[where] - s for t, s in zip(target, start))
    result = np.zeros(lit.shape, np.float32)
    result[where] = ~occluders.blocked(start, way)  # type: ignore[arg-type]
    return result


def sunlit(occluders: Occluders, seen: Surface, sun: Sun) -> Floats:
    """1 where the sun shines through its window (N,), 0 elsewhere."""
    facing = sum(n * np.float32(d) for n, d in zip(seen.normal, sun.direction))
    run = (np.float32(sun.place) - seen.point[sun.axis]) / np.float32(sun.direction[sun.axis])
    other = 1 - sun.axis
    along = seen.point[other] + run * np.float32(sun.direction[other])
    up = seen.point[2] + run * np.float32(sun.direction[2])
    through = (along > sun.low[0]) & (along < sun.high[0]) & (up > sun.low[1]) & (up < sun.high[1])
    where = np.flatnonzero(through & (facing > 0))
    start = tuple(p[where] + n[where] * _BIAS for p, n in zip(seen.point, seen.normal))
    way = tuple(run[where] * np.float32(d) for d in sun.direction)
    result = np.zeros(run.shape, np.float32)
    result[where] = ~occluders.blocked(start, way)  # type: ignore[arg-type]
    return result


def smooth(values: Floats, surface: NDArray[np.int32], size: tuple[int, int]) -> Floats:
    """Mean over the 4 × 4 pixels around each pixel that belong to the same surface."""
    image, ids = values.reshape(size), surface.reshape(size)
    total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for i in range(-2, 2):
        for j in range(-2, 2):
            here, there = overlap(i, size[0]), overlap(j, size[1])
            a = (here[0], there[0])
            b = (here[1], there[1])
            same = ids[a] == ids[b]
            total[a] += image[b] * same
            count[a] += same
    return (total / count).ravel()


def overlap(shift: int, length: int) -> tuple[slice, slice]:
    """Places, and the places `shift` further, that both lie in range."""
    shift = max(min(shift, length), -length)
    return slice(max(0, -shift), length - max(0, shift)), slice(max(0, shift), length + min(0, shift))
