"""A plain ray marcher, in float64: it knows only whether a point is inside a solid, and shares nothing with `cast`."""

import numpy as np

from demt.data.rooms.parts import BALL, BOX

STEPS, HALVINGS = 500, 40


def inside(scene, k, points):
    """Whether points (..., 3) are inside solid k."""
    q = ((points - scene.centre[k]) @ scene.axes[k].T) / scene.half[k]
    if scene.kind[k] == BOX:
        return (np.abs(q) <= 1).all(-1)
    if scene.kind[k] == BALL:
        return (q**2).sum(-1) <= 1
    along = (q[..., 2] + 1) / 2
    radius = (1 - along) + along * scene.taper[k]
    return (np.abs(q[..., 2]) <= 1) & (np.hypot(q[..., 0], q[..., 1]) <= radius)


def sphere(scene, k):
    """Radius of a sphere around solid k."""
    return np.linalg.norm(scene.half[k] * [max(1, scene.taper[k])] * 2)


def first_inside(scene, k, start, way, low, high):
    """Smallest t in [low, high] (N,) with start + t · way (N, 3) inside solid k; infinite where there is none."""
    t = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, STEPS)
    start = np.broadcast_to(start, way.shape)
    hits = inside(scene, k, start[:, None] + t[..., None] * way[:, None]) & (low < high)[:, None]
    found, first = hits.any(1), hits.argmax(1)
    rows = np.arange(len(t))
    outer, inner = t[rows, np.maximum(first - 1, 0)], t[rows, first]
    for _ in range(HALVINGS):
        middle = (outer + inner) / 2
        is_in = inside(scene, k, start + middle[:, None] * way)
        outer, inner = np.where(is_in, outer, middle), np.where(is_in, middle, inner)
    return np.where(found, inner, np.inf)


def near(scene, k, start, way):
    """Where lines pass the sphere around solid k: two arrays (N,), empty intervals where they do not."""
    offset, square = scene.centre[k] - start, (way**2).sum(1)
    closest = (offset * way).sum(1) / square
    apart = ((start + closest[:, None] * way - scene.centre[k]) ** 2).sum(1)
    reach = np.sqrt(np.maximum(sphere(scene, k) ** 2 - apart, 0) / square)
    return np.maximum(closest - reach, 0), np.where(reach > 0, closest + reach, 0)


def room_exit(scene, start, way):
    """Where lines leave the room, and through which of its faces."""
    low, high = scene.centre[0] - scene.half[0], scene.centre[0] + scene.half[0]
    with np.errstate(divide="ignore"):
        t = np.where(way == 0, np.inf, np.where(way > 0, high - start, low - start) / way)
    axis = t.argmin(1)
    return t.min(1), 2 * axis + (way[np.arange(len(way)), axis] > 0)


def march(scene, size):
    """Depth and seen solid of every pixel (H, W)."""
    camera, (height, width) = scene.camera, size
    x = (np.arange(width) + 0.5 - width / 2) * 2 * camera.reach / max(size)
    y = (np.arange(height) + 0.5 - height / 2) * 2 * camera.reach / max(size)
    way = (
        np.array(camera.forward) + x[None, :, None] * np.array(camera.right) + y[:, None, None] * np.array(camera.down)
    )
    way, start = way.reshape(-1, 3), np.array(camera.position)
    depth, solid = room_exit(scene, start, way)
    for k in range(6, len(scene.kind)):
        t = first_inside(scene, k, start, way, *near(scene, k, start, way))
        solid = np.where(t < depth, k, solid)
        depth = np.minimum(t, depth)
    return depth.reshape(size), solid.reshape(size)
