"""The surface that every pixel sees: its point, normal and place on the solid. Exact arithmetic, as in `cast`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms.parts import BALL, BOX, CONE
from demt.data.rooms.scene import ROOM_FACE, Floats, Scene

Triple = tuple[Floats, Floats, Floats]


@dataclasses.dataclass(frozen=True)
class Surface:
    """N seen points.

    Attributes:
        solid: (N,) number of the solid.
        face: (N,) axis of a box's face; 3 on round sides.
        depth: (N,) z-depth.
        point, normal: In the room; normals have length 1 and point out of the solid.
        local: The point in the solid's unit frame.
        ray: The ray's direction, of length 1 along the optical axis.
    """

    solid: NDArray[np.intp]
    face: NDArray[np.int8]
    depth: Floats
    point: Triple
    normal: Triple
    local: Triple
    ray: Triple


def surface(scene: Scene, depth: Floats, solid: NDArray[np.int16]) -> Surface:
    """Points and normals of a depth map (H, W) whose pixels belong to these solids (H, W)."""
    x, y = scene.camera.rays((depth.shape[0], depth.shape[1]))
    camera, flat, ids = scene.camera, depth.ravel(), solid.ravel().astype(np.intp)
    ray = _triple(
        (
            (x * np.float32(camera.right[i]) + np.float32(camera.forward[i])) + y[:, None] * np.float32(camera.down[i])
        ).ravel()
        for i in range(3)
    )
    point = _triple(flat * d + np.float32(p) for d, p in zip(ray, camera.position))
    matrix = scene.matrix.astype(np.float32)
    centre = scene.centre.astype(np.float32)
    offset = [p - centre[:, i].take(ids) for i, p in enumerate(point)]
    local = _triple(_rows(matrix[:, i], ids, offset) for i in range(3))
    face, inner = _own_normal(scene, ids, local, solid.ravel())
    # Normals go through the inverse transpose of (unit frame to room), which is the transpose of `matrix`.
    n = [_rows(matrix[:, :, i], ids, inner) for i in range(3)]
    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    return Surface(ids, face, flat, point, _triple(v / length for v in n), local, ray)


def _own_normal(
    scene: Scene, ids: NDArray[np.intp], local: Triple, solid: NDArray[np.int16]
) -> tuple[NDArray[np.int8], list[Floats]]:
    """Face and normal in the unit frame, of any length."""
    kind = scene.kind.take(ids)
    flat_sided = kind == BOX
    face = np.full(ids.shape, 3, np.int8)
    p, q, r = (np.abs(v) for v in local)
    face[flat_sided] = np.where((p >= q) & (p >= r), 0, np.where(q >= r, 1, 2))[flat_sided]
    room = kind == ROOM_FACE
    face[room] = solid[room] >> 1
    cone = np.flatnonzero(kind == CONE)
    slope = ((scene.taper - 1) / 2).astype(np.float32).take(ids[cone])
    middle = ((scene.taper + 1) / 2).astype(np.float32).take(ids[cone])
    x, y, z = (v[cone] for v in local)
    radius = middle + slope * z
    cap = np.abs(z) > np.sqrt(x * x + y * y) / np.maximum(radius, np.float32(1e-6))
    face[cone[cap]] = 2
    inner = [np.where(face == i, np.sign(v), np.float32(0)) for i, v in enumerate(local)]
    ball = kind == BALL
    for i, v in enumerate(local):
        inner[i][ball] = v[ball]
    side = cone[~cap]
    inner[0][side], inner[1][side], inner[2][side] = x[~cap], y[~cap], (-slope * radius)[~cap]
    for v in inner:
        v[room] = -v[room]
    return face, inner


def _rows(table: NDArray[np.float32], ids: NDArray[np.intp], v: list[Floats]) -> Floats:
    a, b, c = (np.ascontiguousarray(table[:, i]).take(ids) for i in range(3))
    return (a * v[0] + b * v[1]) + c * v[2]


def _triple(values: Iterable[Floats]) -> Triple:
    a, b, c = values
    return a, b, c
