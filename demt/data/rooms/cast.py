"""Ray casting: where lines meet solids, and what every pixel of a camera sees.

Labels come from here, so only operations are used that IEEE 754 defines to the last bit (+ − × ÷ √ and comparisons,
element by element): every machine finds the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms.parts import BOX, CONE
from demt.data.rooms.scene import Floats, Scene

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_NEAR = 0.05


def interval(kind: int, taper: float, o: tuple[Floats, ...], d: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    """Where lines o + t·d, in a solid's own frame, enter and leave it.

    Returns:
        (first, last): lines with first ≤ last go through it; anything else, NaN included, misses it. A line exactly
        along a cylinder's axis counts as a miss.
    """
    if kind == BOX:
        return _slabs(o, d)
    a, b, c = (d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1])
    if kind != CONE:
        a, b, c = a + d[2] * d[2], b + o[2] * d[2], c + o[2] * o[2] - np.float32(1)
        b = b / a
        root = np.sqrt(b * b - c / a)
        return -b - root, root - b
    bottom, top = _slab(o[2], d[2])
    if taper == 1.0:
        b = b / a
        root = np.sqrt(b * b - (c - np.float32(1)) / a)
        return np.maximum(bottom, -b - root), np.minimum(top, root - b)
    # Radius at height z: middle + slope · z.
    middle, slope = np.float32((1 + taper) / 2), np.float32((taper - 1) / 2)
    radius, change = middle + slope * o[2], slope * d[2]
    a, b, c = a - change * change, b - radius * change, c - radius * radius
    b = b / a
    root = np.sqrt(b * b - c / a)
    first, last = -b - root, root - b
    # Lines steeper than the side are inside one half of the double cone beyond a root: the half that has a radius > 0.
    steep, growing = a < 0, change > 0
    enter = np.where(steep, np.where(growing, last, np.float32(-np.inf)), first)
    leave = np.where(steep, np.where(growing, np.float32(np.inf), first), last)
    return np.maximum(bottom, enter), np.minimum(top, leave)


def _slab(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    inverse = np.float32(1) / d
    low, high = (np.float32(-1) - o) * inverse, (np.float32(1) - o) * inverse
    return np.minimum(low, high), np.maximum(low, high)


def _slabs(o: tuple[Floats, ...], d: tuple[Floats, ...]) -> tuple[Floats, Floats]:
    first, last = _slab(o[0], d[0])
    for k in (1, 2):
        low, high = _slab(o[k], d[k])
        first, last = np.maximum(first, low), np.minimum(last, high)
    return first, last


class Rays:
    """The camera's rays in the solids' own frames.

    A ray is forward + x·right + y·down from the camera; per solid and axis it is a + x·b + y·c from o, all scalars.
    """

    def __init__(self, scene: Scene) -> None:
        camera, matrix = scene.camera, scene.matrix
        offset = scene.centre - np.array(camera.position)
        self.start = -dot(matrix, offset[:, None])
        self.forward, self.right, self.down = (
            dot(matrix, np.array(axis)) for axis in (camera.forward, camera.right, camera.down)
        )
        # Lines are followed from a point near the solid: float32 has few digits left for small solids far away.
        self.depth = np.maximum(dot(offset, np.array(camera.forward)), 0.0).astype(np.float32)

    def local(self, k: int, x: Floats, y: Floats) -> tuple[tuple[Floats, ...], tuple[Floats, ...]]:
        """Starts, at depth ``depth[k]``, and directions of rays through (x, y), in the frame of solid k."""
        shift = float(self.depth[k])
        d = [
            (x * np.float32(self.right[k, i]) + np.float32(self.forward[k, i])) + y * np.float32(self.down[k, i])
            for i in range(3)
        ]
        o = [
            (x * np.float32(shift * self.right[k, i]) + np.float32(self.start[k, i] + shift * self.forward[k, i]))
            + y * np.float32(shift * self.down[k, i])
            for i in range(3)
        ]
        return tuple(o), tuple(d)


def cast(scene: Scene, rays: Rays, size: tuple[int, int]) -> tuple[Floats, NDArray[np.int16], NDArray[np.int64]]:
    """What every pixel sees.

    Returns:
        Depth (H, W) along the optical axis, the seen solid's number (H, W), and the solids' rectangles on the image
        (K, 4), as row and column ranges.
    """
    x, y = scene.camera.rays(size)
    depth, solid = cast_room(rays, x, y[:, None])
    bounds, near = rectangles(scene, size)
    for k in np.argsort(near, kind="stable"):
        if skips(k, bounds):
            continue
        top, bottom, left, right = bounds[k]
        window = depth[top:bottom, left:right]
        if near[k] > window.max():
            continue
        first, last = interval(scene.kind[k], float(scene.taper[k]), *rays.local(k, x[left:right], y[top:bottom, None]))
        first_depth = first + rays.depth[k]
        hit = (first <= last) & (first_depth < window) & (first_depth > _NEAR)
        np.copyto(window, first_depth, where=hit)
        np.copyto(solid[top:bottom, left:right], np.int16(k), where=hit)
    return depth, solid, bounds


def skips(k: int, bounds: NDArray[np.int64]) -> bool:
    """Whether solid k is a face of the room or outside the image."""
    return bool(k < 6 or bounds[k, 0] >= bounds[k, 1] or bounds[k, 2] >= bounds[k, 3])


def cast_room(rays: Rays, x: Floats, y: Floats) -> tuple[Floats, NDArray[np.int16]]:
    """Depth of the room's shell along rays, and the number of the face that they meet."""
    depth, solid = None, None
    for axis in range(3):
        d = (x * np.float32(rays.right[0, axis]) + np.float32(rays.forward[0, axis])) + y * np.float32(
            rays.down[0, axis]
        )
        away = d > 0
        # Along a face |d| is 0, and the ray never gets there: t is +inf.
        t = (1 - np.where(away, np.float32(1), np.float32(-1)) * np.float32(rays.start[0, axis])) / np.abs(d)
        face = (2 * axis + away).astype(np.int16)
        if depth is None or solid is None:
            depth, solid = t, face
        else:
            closer = t < depth
            depth, solid = np.where(closer, t, depth), np.where(closer, face, solid)
    assert depth is not None
    assert solid is not None
    return depth, solid


def rectangles(scene: Scene, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Image rectangles (K, 4) that cover the solids, with a pixel to spare, and the nearest depths (K,)."""
    camera = scene.camera
    edges = (scene.axes * scene.half[:, :, None]).transpose(0, 2, 1)
    offset = dot(edges[:, None], _CORNERS[:, None]) + (scene.centre - np.array(camera.position))[:, None]
    z = dot(offset, np.array(camera.forward))
    scale = max(size) / (2 * camera.reach)
    safe = np.maximum(z, 1e-3)
    column = dot(offset, np.array(camera.right)) / safe * scale + size[1] / 2
    row = dot(offset, np.array(camera.down)) / safe * scale + size[0] / 2
    low = np.floor(np.stack([row.min(1), column.min(1)], 1)) - 1
    high = np.ceil(np.stack([row.max(1), column.max(1)], 1)) + 1
    # A solid that reaches behind the camera may be anywhere.
    behind = z.min(1) < _NEAR
    low[behind], high[behind] = 0, max(size)
    high[z.max(1) < _NEAR] = 0
    limit = np.array(size)
    low, high = np.clip(low, 0, limit).astype(np.int64), np.clip(high, 0, limit).astype(np.int64)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1), z.min(1) - 1e-3


def dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scalar products along the last axis (3), in an order of additions that no library decides."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]
