"""A scene as arrays: every solid with its frame, instance and material, the camera and the lights."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms.materials import Material
from demt.data.rooms.parts import Thing, cos_sin

Floats = NDArray[np.float32]
ROOM_FACE = 3
#: Instances 0 to 5 are the room's faces, in this order; the walls are −x, +x, −y, +y.
FACES = ("wall", "wall", "wall", "wall", "floor", "ceiling")


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera. Image x runs along `right`, image y along `down`.

    Attributes:
        position: In the room (metres).
        right, down, forward: Orthonormal axes.
        reach: Tangent of half the field of view along the longer side of the image.
    """

    position: tuple[float, float, float]
    right: tuple[float, float, float]
    down: tuple[float, float, float]
    forward: tuple[float, float, float]
    reach: float

    @classmethod
    def looking(cls, position: tuple[float, float, float], yaw: float, pitch: float, roll: float, fov: float) -> Camera:
        """A camera turned by `yaw` from +y towards +x, up by `pitch` and by `roll` about its axis (all in radians)."""
        (cy, sy), (cp, sp), (cr, sr) = cos_sin(yaw), cos_sin(pitch), cos_sin(roll)
        right, down = (cy, -sy, 0.0), (sy * sp, cy * sp, -cp)
        turned = [(cr * r + sr * d, cr * d - sr * r) for r, d in zip(right, down)]
        (r0, d0), (r1, d1), (r2, d2) = turned
        return cls(position, (r0, r1, r2), (d0, d1, d2), (sy * cp, cy * cp, sp), round(math.tan(fov / 2), 8))

    def rays(self, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """Image-plane coordinates at distance 1 of pixel centres: of columns (W,) and of rows (H,).

        A pixel's ray is forward + column · right + row · down, so that its parameter is the z-depth.
        """
        height, width = size
        unit = self.reach / max(size)
        columns = ((2 * np.arange(width) + 1 - width) * unit).astype(np.float32)
        rows = ((2 * np.arange(height) + 1 - height) * unit).astype(np.float32)
        return columns, rows

    def intrinsics(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Camera matrix (3, 3) for images of `size` (height, width), the centre of the first pixel at (0, 0)."""
        height, width = size
        focal = max(size) / (2 * self.reach)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


@dataclasses.dataclass(frozen=True)
class Light:
    """An area light, as 16 points of it.

    Attributes:
        points: (16, 3) float32.
        colour: Radiant intensity, linear RGB.
        facing: Direction of its normal for a one-sided flat light, or None for light in all directions.
    """

    points: Floats
    colour: tuple[float, float, float]
    facing: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Sun:
    """Parallel light through one window: direction towards the sun, and the opening as (axis, place, low, high).

    Attributes:
        direction: Unit vector towards the sun.
        colour: Irradiance at normal incidence, linear RGB.
        axis: Axis (0 or 1) across which the wall of the window lies.
        place: Coordinate of that wall.
        low, high: Corners of the opening (along the wall, z).
    """

    direction: tuple[float, float, float]
    colour: tuple[float, float, float]
    axis: int
    place: float
    low: tuple[float, float]
    high: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """All there is to see. K solids; the first six are the room's faces.

    Attributes:
        camera, lights, sun: See there.
        ambient: Linear RGB of the light from everywhere.
        kind: (K,) shapes of `parts`, or `ROOM_FACE`.
        centre, half: (K, 3) float64.
        axes: (K, 3, 3) float64, the rows being the solids' own axes in the room.
        taper: (K,) float64.
        instance: (K,) index of the thing a solid belongs to.
        body: (K,) number of the body part, 0 for none.
        material: (K,) index of its material.
        names: Semantic class of every instance.
        fixed: Whether an instance belongs to the room.
        materials: The materials.
    """

    camera: Camera
    lights: tuple[Light, ...]
    sun: Sun | None
    ambient: tuple[float, float, float]
    kind: NDArray[np.int64]
    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    axes: NDArray[np.float64]
    taper: NDArray[np.float64]
    instance: NDArray[np.int64]
    body: NDArray[np.uint8]
    material: NDArray[np.int64]
    names: tuple[str, ...]
    fixed: tuple[bool, ...]
    materials: tuple[Material, ...]

    @functools.cached_property
    def matrix(self) -> NDArray[np.float64]:
        """(K, 3, 3): from the room to the solids' unit shapes, q = matrix · (p − centre)."""
        matrix: NDArray[np.float64] = self.axes / self.half[:, :, None]
        return matrix


def assemble(
    room: tuple[float, float, float],
    surfaces: tuple[Material, Material, Material],
    things: list[Thing],
    camera: Camera,
    lights: tuple[Light, ...],
    sun: Sun | None,
    ambient: tuple[float, float, float],
) -> Scene:
    """Put things into a room of width (x), depth (y) and height (z).

    The room is [−width/2, width/2] × [0, depth] × [0, height]; `surfaces` are those of walls, floor and ceiling. Parts
    of a thing whose name is ``"wall"`` belong to the wall they stand nearest to.
    """
    materials: dict[Material, int] = {}
    number = [materials.setdefault(surfaces[i], len(materials)) for i in (0, 0, 0, 0, 1, 2)]
    half_room = (room[0] / 2, room[1] / 2, room[2] / 2)
    kind, taper, body = [ROOM_FACE] * 6, [1.0] * 6, [0] * 6
    centre: list[tuple[float, ...]] = [(0.0, half_room[1], half_room[2])] * 6
    half: list[tuple[float, ...]] = [half_room] * 6
    axes: list[tuple[tuple[float, ...], ...]] = [((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))] * 6
    place: list[tuple[float, ...]] = [(0.0, 0.0, 0.0, 1.0, 0.0)] * 6
    instance, names, fixed = list(range(6)), list(FACES), [True] * 6
    for thing in things:
        owner = _nearest_wall(thing, room) if thing.name == "wall" else len(names)
        if owner == len(names):
            names.append(thing.name)
            fixed.append(thing.fixed)
        where = (*thing.position, *cos_sin(thing.angle))
        for part in thing.parts:
            kind.append(part.kind)
            centre.append(part.centre)
            half.append(part.half)
            axes.append(part.axes)
            taper.append(part.taper)
            body.append(part.body)
            number.append(materials.setdefault(part.material, len(materials)))
            place.append(where)
            instance.append(owner)
    x, y, z, c, s = np.array(place).T
    turned = _turn(np.array(axes), c[:, None], s[:, None])
    return Scene(
        camera,
        lights,
        sun,
        ambient,
        np.array(kind),
        _turn(np.array(centre), c, s) + np.stack([x, y, z], 1),
        np.array(half),
        turned,
        np.array(taper),
        np.array(instance),
        np.array(body, np.uint8),
        np.array(number),
        tuple(names),
        tuple(fixed),
        tuple(materials),
    )


def _turn(vectors: NDArray[np.float64], c: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.stack([c * x - s * y, s * x + c * y, z], -1)


def _nearest_wall(thing: Thing, room: tuple[float, float, float]) -> int:
    x, y, _ = thing.position
    distances = [x + room[0] / 2, room[0] / 2 - x, y, room[1] - y]
    return distances.index(min(distances))
