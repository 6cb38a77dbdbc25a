"""What things are made of: boxes, ellipsoids and capped cones, each with a material, in the frame of the thing.

A thing's own frame: x to its right, y to its back, z up, the origin on the floor under its middle; metres.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from demt.data.rooms.materials import Material

Vec = tuple[float, float, float]
Axes = tuple[Vec, Vec, Vec]

BOX, BALL, CONE = 0, 1, 2
UPRIGHT: Axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class Part(NamedTuple):
    """One solid: the affine image of a unit shape.

    Attributes:
        kind: `BOX` (unit cube, half side 1), `BALL` (unit sphere) or `CONE` (along z from −1, where its radius is 1, to
            1, where it is `taper`).
        centre: Of the shape.
        half: Half sizes along the three axes.
        material: Of its surface.
        axes: The shape's axes, orthonormal.
        taper: A cone's radius at its end over that at its start.
        body: Number of the body part, for people; 0 otherwise.
    """

    kind: int
    centre: Vec
    half: Vec
    material: Material
    axes: Axes = UPRIGHT
    taper: float = 1.0
    body: int = 0


def box(centre: Vec, size: Vec, material: Material, axes: Axes = UPRIGHT) -> Part:
    """A box given by its full size."""
    return Part(BOX, centre, (size[0] / 2, size[1] / 2, size[2] / 2), material, axes)


def ball(centre: Vec, radius: float | Vec, material: Material, *, axes: Axes = UPRIGHT, body: int = 0) -> Part:
    """A sphere, or an ellipsoid given by its three half axes."""
    half = radius if isinstance(radius, tuple) else (radius, radius, radius)
    return Part(BALL, centre, half, material, axes, 1.0, body)


def rod(
    start: Vec, end: Vec, radius: float, material: Material, *, end_radius: float | None = None, body: int = 0
) -> Part:
    """A capped cylinder or cone between two points."""
    along = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    length = _length(along)
    z = (along[0] / length, along[1] / length, along[2] / length)
    centre = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, (start[2] + end[2]) / 2)
    taper = 1.0 if end_radius is None else end_radius / radius
    return Part(CONE, centre, (radius, radius, length / 2), material, around(z), taper, body)


def around(z: Vec) -> Axes:
    """Orthonormal axes whose third is the unit vector `z`."""
    other = (1.0, 0.0, 0.0) if abs(z[2]) > 0.9 else (0.0, 0.0, 1.0)
    x = _unit(_cross(other, z))
    return x, _cross(z, x), z


def leaning(angle: float) -> Axes:
    """Axes turned about x by `angle` (radians), so that what stood upright leans back."""
    c, s = cos_sin(angle)
    return (1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)


def cos_sin(angle: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that the last digits, in which machines differ, do not count."""
    return round(math.cos(angle), 8), round(math.sin(angle), 8)


def _cross(a: Vec, b: Vec) -> Vec:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _length(a: Vec) -> float:
    # Products and roots are the same everywhere; powers need not be.
    return math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


def _unit(a: Vec) -> Vec:
    length = _length(a)
    return a[0] / length, a[1] / length, a[2] / length


@dataclasses.dataclass
class Thing:
    """An instance: its class, its parts in its own frame, and where it stands.

    Attributes:
        name: Semantic class.
        parts: The solids.
        footprint: Full width and depth on the floor.
        height: Of the top.
        seat: Height of a seat, or of a top on which things can stand; 0 if there is none.
        fixed: Whether it belongs to the room (doors, windows, pictures, rugs): never the most prominent thing.
        position, angle: Where its frame stands in the room (metres), turned about z (radians).
    """

    name: str
    parts: list[Part]
    footprint: tuple[float, float] = (0.0, 0.0)
    height: float = 0.0
    seat: float = 0.0
    fixed: bool = False
    position: Vec = (0.0, 0.0, 0.0)
    angle: float = 0.0

    def at(self, position: Vec, angle: float = 0.0) -> Thing:
        """The same thing at another place."""
        return dataclasses.replace(self, position=position, angle=angle)
