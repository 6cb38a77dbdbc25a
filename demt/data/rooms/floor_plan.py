"""Where things stand: a plan of the room that knows what is taken, on the floor and on the walls."""

from __future__ import annotations

import dataclasses
import math

from demt.data.rooms.dice import Dice
from demt.data.rooms.parts import Thing, Vec, cos_sin

#: Turn of a thing whose back is at a wall, in radians.
TURNS = {"back": 0.0, "left": math.pi / 2, "right": -math.pi / 2}
Rectangle = tuple[float, float, float, float]
_GAP = 0.06


@dataclasses.dataclass
class Plan:
    """A room from above, seen from a camera near the wall y = 0.

    Attributes:
        width, depth, height: Of the room, metres; x runs from −width/2 to width/2, y from 0 to depth.
        eye: The camera's place on the floor.
        yaw, half_fov: Where it looks, from +y towards +x, and half the angle of what it sees (radians).
        things: What has been placed.
        taken: Floor rectangles (x0, y0, x1, y1).
        hung: Rectangles (along, z) on each wall.
    """

    width: float
    depth: float
    height: float
    eye: tuple[float, float]
    yaw: float
    half_fov: float
    things: list[Thing] = dataclasses.field(default_factory=list)
    taken: list[Rectangle] = dataclasses.field(default_factory=list)
    hung: dict[str, list[Rectangle]] = dataclasses.field(default_factory=lambda: {name: [] for name in TURNS})

    def against(self, dice: Dice, thing: Thing, *, wall: str | None = None, tries: int = 14) -> Thing | None:
        """Stand a thing with its back to a wall where there is room for it; None where there is not."""
        width, depth = thing.footprint
        for _ in range(tries):
            name = wall or dice.choice(("back", "back", "left", "right"))
            along = self._along(dice, name, width)
            if along is None:
                continue
            x, y = self.wall_point(name, along, depth / 2 + 0.02)
            spread = (width, depth) if name == "back" else (depth, width)
            flat = (x - spread[0] / 2, y - spread[1] / 2, x + spread[0] / 2, y + spread[1] / 2)
            front = (along - width / 2, 0.0, along + width / 2, thing.height)
            if self._free(flat, thing.height) and self._bare(name, front) and self.seen(x, y):
                self.hung[name].append(front)
                return self._add(thing.at((x, y, 0.0), TURNS[name]), flat)
        return None

    def hang(
        self, dice: Dice, thing: Thing, low: float, high: float, bottom: float = 0.0, *, tries: int = 12
    ) -> Thing | None:
        """Fix a flat thing to a wall, its origin between the heights `low` and `high`.

        `bottom` is how far it reaches below its origin. Things that start at the floor keep furniture away.
        """
        width, depth = thing.footprint
        for _ in range(tries):
            name = dice.choice(("back", "back", "left", "right"))
            along, z = self._along(dice, name, width), dice.uniform(low, high)
            if along is None or z + thing.height - bottom > self.height - 0.05:
                continue
            area = (along - width / 2, z - bottom, along + width / 2, z - bottom + thing.height)
            x, y = self.wall_point(name, along, depth / 2)
            if self._bare(name, area) and self.seen(x, y):
                self.hung[name].append(area)
                placed = thing.at((x, y, z), TURNS[name])
                self.things.append(placed)
                return placed
        return None

    def free(
        self, dice: Dice, things: list[Thing], size: tuple[float, float], *, height: float, angle: float | None = None
    ) -> bool:
        """Stand a group of things, given in a frame of their own, somewhere on the floor; False where nowhere fits."""
        for _ in range(22):
            turn = dice.uniform(-math.pi, math.pi) if angle is None else angle
            c, s = cos_sin(turn)
            w, d = abs(c) * size[0] + abs(s) * size[1], abs(s) * size[0] + abs(c) * size[1]
            if w + 0.2 > self.width or d + 0.2 > self.depth:
                continue
            x = dice.uniform(-self.width / 2 + w / 2 + 0.08, self.width / 2 - w / 2 - 0.08)
            y = dice.uniform(d / 2, self.depth - d / 2 - 0.08)
            flat = (x - w / 2, y - d / 2, x + w / 2, y + d / 2)
            if self._free(flat, height) and self.seen(x, y):
                self.put(things, (x, y, 0.0), turn)
                self.taken.append(flat)
                return True
        return False

    def put(self, things: list[Thing], position: Vec, angle: float) -> list[Thing]:
        """Add things given in a frame that stands at `position`, turned by `angle`, without asking for room."""
        c, s = cos_sin(angle)
        placed = []
        for thing in things:
            x, y, z = thing.position
            where = (position[0] + c * x - s * y, position[1] + s * x + c * y, position[2] + z)
            placed.append(thing.at(where, thing.angle + angle))
        self.things += placed
        return placed

    def in_front(self, owner: Thing, things: list[Thing], size: tuple[float, float], distance: float) -> bool:
        """Stand things before one that has its back to a wall, if there is room."""
        c, s = cos_sin(owner.angle)
        reach = owner.footprint[1] / 2 + distance + size[1] / 2
        x, y = owner.position[0] + s * reach, owner.position[1] - c * reach
        w, d = abs(c) * size[0] + abs(s) * size[1], abs(s) * size[0] + abs(c) * size[1]
        flat = (x - w / 2, y - d / 2, x + w / 2, y + d / 2)
        if not self._free(flat, max((thing.height for thing in things), default=0.0)):
            return False
        self.put(things, (x, y, 0.0), owner.angle)
        self.taken.append(flat)
        return True

    def seen(self, x: float, y: float) -> bool:
        """Whether a place is in the camera's field of view, with a little margin."""
        c, s = cos_sin(self.yaw)
        dx, dy = x - self.eye[0], y - self.eye[1]
        across, ahead = c * dx - s * dy, s * dx + c * dy
        return ahead > 0.6 and abs(across) < ahead * math.tan(self.half_fov) * 1.02 + 0.15

    def _add(self, thing: Thing, flat: Rectangle) -> Thing:
        self.things.append(thing)
        self.taken.append(flat)
        return thing

    def _along(self, dice: Dice, wall: str, width: float) -> float | None:
        low, high = (-self.width / 2, self.width / 2) if wall == "back" else (0.6, self.depth)
        if high - low < width + 2 * _GAP:
            return None
        return dice.uniform(low + width / 2 + _GAP, high - width / 2 - _GAP)

    def wall_point(self, wall: str, along: float, distance: float) -> tuple[float, float]:
        """The place at a distance from a wall, `along` it."""
        if wall == "back":
            return along, self.depth - distance
        return (distance - self.width / 2 if wall == "left" else self.width / 2 - distance), along

    def _free(self, flat: Rectangle, height: float) -> bool:
        x0, y0, x1, y1 = flat
        if x0 < -self.width / 2 or x1 > self.width / 2 or y0 < 0 or y1 > self.depth:
            return False
        dx = max(x0 - self.eye[0], 0.0, self.eye[0] - x1)
        dy = max(y0 - self.eye[1], 0.0, self.eye[1] - y1)
        # Nothing near the lens: what is tall would hide the room.
        if dx * dx + dy * dy < (1.0 if height < 0.6 else 1.5 if height < 1.2 else 1.9) ** 2:
            return False
        return all(
            x1 + _GAP <= a0 or a1 + _GAP <= x0 or y1 + _GAP <= b0 or b1 + _GAP <= y0 for a0, b0, a1, b1 in self.taken
        )

    def _bare(self, wall: str, area: Rectangle) -> bool:
        x0, z0, x1, z1 = area
        return all(
            x1 + 0.08 <= a or c + 0.08 <= x0 or z1 + 0.08 <= b or d + 0.08 <= z0 for a, b, c, d in self.hung[wall]
        )
