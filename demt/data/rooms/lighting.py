"""The lights of a room: windows, ceiling lamps and the light from everywhere else."""

from __future__ import annotations

import math

import numpy as np

from demt.data.rooms.dice import Dice
from demt.data.rooms.floor_plan import TURNS, Plan
from demt.data.rooms.materials import Colour
from demt.data.rooms.parts import Thing, Vec, cos_sin
from demt.data.rooms.scene import Light, Sun

_DAYLIGHT: tuple[Colour, ...] = ((1.0, 0.97, 0.92), (0.93, 0.97, 1.0), (1.0, 0.93, 0.82))
_LAMPLIGHT: tuple[Colour, ...] = ((1.0, 0.84, 0.62), (1.0, 0.9, 0.76), (1.0, 0.95, 0.88))
_GRID = ((-0.75, -0.25, 0.25, 0.75), (-0.75, -0.25, 0.25, 0.75))


def light(
    dice: Dice, plan: Plan, windows: list[Thing], lamp: Thing | None, *, day: bool
) -> tuple[tuple[Light, ...], Sun | None, Colour]:
    """The main light, a weaker second one, the sun if it shines in, and the ambient light."""
    colour = dice.choice(_DAYLIGHT if day else _LAMPLIGHT)
    sun = None
    if day:
        main = _window_light(windows[0], 7.0) if windows else _frontal(dice, plan, 6.0)
        second = _frontal(dice, plan, 2.5) if windows else _ceiling(dice, plan, lamp, 1.5)
        if windows and dice.chance(0.5):
            sun = _sun(dice, windows[0], plan)
    else:
        main = _ceiling(dice, plan, lamp, 5.0)
        second = _frontal(dice, plan, 1.2)
    contrast = dice.uniform(0.26, 0.5)
    ambient = _scaled(colour, contrast)
    return (_tinted(main, colour), _tinted(second, colour)), sun, ambient


def _window_light(window: Thing, strength: float) -> Light:
    c, s = cos_sin(window.angle)
    x, y, z = window.position
    width, height = window.footprint[0] - 0.24, window.height
    # A hand's breadth into the room, so that frame and curtains do not cover it.
    points = [
        (x + c * a * width / 2 + s * 0.2, y + s * a * width / 2 - c * 0.2, z + (b + 1) * height / 2)
        for a in _GRID[0]
        for b in _GRID[1]
    ]
    area = strength * width * height / 2
    return Light(np.array(points, np.float32), (area, area, area), (s, -c, 0.0))


def _ceiling(dice: Dice, plan: Plan, lamp: Thing | None, strength: float) -> Light:
    if lamp is None:
        centre = (dice.uniform(-0.2, 0.2) * plan.width, dice.uniform(0.3, 0.6) * plan.depth, plan.height - 0.12)
    else:
        lowest = min(part.centre[2] for part in lamp.parts)
        centre = (lamp.position[0], lamp.position[1], lamp.position[2] + lowest)
    return Light(_disc(centre, dice.uniform(0.08, 0.25)), (strength, strength, strength))


def _frontal(dice: Dice, plan: Plan, strength: float) -> Light:
    """Light from a window or lamp behind the camera."""
    centre = (dice.uniform(-0.4, 0.4) * plan.width, 0.2, dice.uniform(1.6, plan.height - 0.3))
    return Light(_disc(centre, dice.uniform(0.2, 0.45)), (strength, strength, strength))


def _disc(centre: Vec, radius: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    x, y, z = centre
    return np.array([(x + a * radius, y + b * radius, z) for a in _GRID[0] for b in _GRID[1]], np.float32)


def _sun(dice: Dice, window: Thing, plan: Plan) -> Sun:
    c, s = cos_sin(window.angle)
    height_c, height_s = cos_sin(dice.uniform(0.45, 0.95))
    side_c, side_s = cos_sin(dice.uniform(-0.7, 0.7))
    # Outwards is the thing's +y; turned to the side and up.
    out = (-s * side_c - c * side_s, c * side_c - s * side_s)
    direction = (out[0] * height_c, out[1] * height_c, height_s)
    width = window.footprint[0] - 0.3
    axis, along = (1, window.position[0]) if window.angle == TURNS["back"] else (0, window.position[1])
    place = plan.depth if axis == 1 else math.copysign(plan.width / 2, window.position[0])
    low, high = (
        (along - width / 2, window.position[2] + 0.04),
        (along + width / 2, window.position[2] + window.height - 0.04),
    )
    return Sun(direction, (5.0, 4.5, 3.7), axis, place, low, high)


def _tinted(source: Light, colour: Colour) -> Light:
    red, green, blue = (a * b for a, b in zip(source.colour, colour))
    return Light(source.points, (red, green, blue), source.facing)


def _scaled(colour: Colour, factor: float) -> Colour:
    # What comes back from the walls is less tinted than the light itself.
    red, green, blue = (factor * (0.5 + 0.5 * value) for value in colour)
    return red, green, blue
