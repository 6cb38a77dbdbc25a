"""Smooth outlines: pixels at outlines take the mean colour of what four more rays through them see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms.cast import Rays, cast_room, interval, skips
from demt.data.rooms.scene import Floats, Scene

#: A rotated grid, in pixels from the centre.
_OFFSETS = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)], np.float32)
_AROUND = [(i, j) for i in (0, -1, 1) for j in (0, -1, 1)]


def smooth_outlines(
    image: Floats, scene: Scene, rays: Rays, solid: NDArray[np.int16], bounds: NDArray[np.int64]
) -> None:
    """Mix colours at outlines, in place.

    Args:
        image: (3, H, W).
        scene, rays: What is seen, and from where.
        solid, bounds: What `cast` returned.

    A further ray that meets a solid takes the colour of the nearest pixel around that sees the same solid, and the
    pixel's own where none does.
    """
    size = solid.shape
    outline = np.zeros(size, bool)
    across, down = solid[:, 1:] != solid[:, :-1], solid[1:] != solid[:-1]
    outline[:, 1:] |= across
    outline[:, :-1] |= across
    outline[1:] |= down
    outline[:-1] |= down
    rows, columns = np.nonzero(outline)
    if not rows.size:
        return
    x, y = scene.camera.rays((size[0], size[1]))
    unit = np.float32(2 * scene.camera.reach / max(size))
    found = _cast_points(
        scene,
        rays,
        bounds,
        rows,
        columns,
        x[columns, None] + _OFFSETS[:, 0] * unit,
        y[rows, None] + _OFFSETS[:, 1] * unit,
    )
    colours = np.repeat(image[:, rows, columns][:, :, None], 4, 2)
    missing = np.ones(found.shape, bool)
    for i, j in _AROUND:
        r, c = np.clip(rows + i, 0, size[0] - 1), np.clip(columns + j, 0, size[1] - 1)
        take = missing & (found == solid[r, c][:, None])
        point, ray = np.nonzero(take)
        colours[:, point, ray] = image[:, r[point], c[point]]
        missing &= ~take
    # Sums of four in a fixed order.
    image[:, rows, columns] = ((colours[..., 0] + colours[..., 1]) + (colours[..., 2] + colours[..., 3])) * np.float32(
        0.25
    )


def _cast_points(
    scene: Scene,
    rays: Rays,
    bounds: NDArray[np.int64],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    x: Floats,
    y: Floats,
) -> NDArray[np.int16]:
    """Solids (N, 4) met by rays through x, y (N, 4) of the pixels at `rows` (sorted) and `columns`."""
    depth, solid = cast_room(rays, x, y)
    starts = np.searchsorted(rows, np.arange(int(rows[-1]) + 2))
    last_row = len(starts) - 1
    for k in range(len(scene.kind)):
        if skips(k, bounds):
            continue
        top, bottom, left, right = bounds[k]
        low, high = starts[min(top, last_row)], starts[min(bottom, last_row)]
        near = columns[low:high]
        where = np.flatnonzero((near >= left) & (near < right)) + low
        if not where.size:
            continue
        first, last = interval(int(scene.kind[k]), float(scene.taper[k]), *rays.local(k, x[where], y[where]))
        first_depth = first + rays.depth[k]
        hit = (first <= last) & (first_depth < depth[where]) & (first_depth > 0)
        point, ray = np.nonzero(hit)
        depth[where[point], ray] = first_depth[hit]
        solid[where[point], ray] = k
    return solid
