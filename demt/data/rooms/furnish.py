"""From a seed and an index to a furnished room with a camera and lights."""

from __future__ import annotations

import math

from demt.data.rooms import decor, furniture, lighting
from demt.data.rooms import materials as m
from demt.data.rooms.dice import Dice
from demt.data.rooms.floor_plan import TURNS, Plan
from demt.data.rooms.parts import Thing, box
from demt.data.rooms.people import person
from demt.data.rooms.scene import Camera, Scene, assemble


def make_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the data set with this seed. The same pair is the same scene, always and everywhere."""
    dice = Dice(seed, index)
    day = dice.chance(0.65)
    width, depth, height = dice.uniform(3.6, 6.6), dice.uniform(4.0, 6.8), dice.uniform(2.4, 3.0)
    eye = (dice.uniform(-0.5, 0.5) * (width - 1.8), dice.uniform(0.3, 0.9))
    # Towards the far side: the more so, the closer the camera is to a side wall.
    yaw = -0.5 * eye[0] / width * 2 + dice.uniform(-0.3, 0.3)
    fov = math.radians(dice.uniform(56, 74))
    # A person's eyes, or a phone held lower; looking down a little.
    level = dice.uniform(1.15, 1.7)
    pitch = dice.uniform(-0.2, 0.0) - 0.12 * (level - 1.15)
    camera = Camera.looking((*eye, level), yaw, pitch, dice.uniform(-0.03, 0.03), fov)
    plan = Plan(width, depth, height, eye, yaw, fov / 2)
    surfaces = (m.wall(dice), m.floor(dice), m.painted(dice, m.WHITES))
    windows = _walls_first(dice, plan, day)
    _big_furniture(dice, plan)
    _people(dice, plan)
    _rest(dice, plan)
    hanging = _ceiling_lamp(dice, plan, lit=not day)
    _skirting(dice, plan)
    lights, sun, ambient = lighting.light(dice, plan, windows, hanging, day=day)
    return assemble((width, depth, height), surfaces, plan.things, camera, lights, sun, ambient)


def _walls_first(dice: Dice, plan: Plan, day: bool) -> list[Thing]:
    if dice.chance(0.65):
        thing = decor.door(dice)
        placed = plan.hang(dice, thing, 0.0, 0.0)
        if placed is not None:
            _keep_clear(plan, placed)
    windows = []
    for _ in range(dice.choice((0, 1, 1, 1, 2))):
        sill = decor.window(dice, day)
        hung = plan.hang(dice, sill, 0.8, 1.0, 0.1)
        if hung is not None:
            windows.append(hung)
    return windows


def _keep_clear(plan: Plan, door: Thing) -> None:
    """The floor before a door stays free."""
    x, y, _ = door.position
    half = door.footprint[0] / 2
    reach = 0.75
    if door.angle == TURNS["back"]:
        plan.taken.append((x - half, y - reach, x + half, y + 0.1))
    elif door.angle == TURNS["left"]:
        plan.taken.append((x - 0.1, y - half, x + reach, y + half))
    else:
        plan.taken.append((x - reach, y - half, x + 0.1, y + half))


def _big_furniture(dice: Dice, plan: Plan) -> None:
    bedroom = dice.chance(0.4)
    if bedroom:
        plan.against(dice, furniture.bed(dice))
    if dice.chance(0.25 if bedroom else 0.75):
        _living_group(dice, plan)
    if dice.chance(0.2 if bedroom else 0.55):
        _dining_group(dice, plan)
    for _ in range(dice.integer(1, 2)):
        kind = dice.uniform()
        if kind < 0.38:
            case, inside = furniture.shelf(dice)
            placed = plan.against(dice, case)
            if placed is not None:
                plan.put(inside, placed.position, placed.angle)
        else:
            chest = plan.against(dice, furniture.cabinet(dice, tall=kind < 0.62))
            if chest is not None and chest.seat:
                _on_top(dice, plan, chest, dice.integer(0, 3))
    if dice.chance(0.4):
        work = plan.against(dice, furniture.desk(dice))
        if work is not None:
            _on_top(dice, plan, work, dice.integer(1, 3))
            seat = furniture.chair(dice)
            plan.in_front(work, [seat.at((0, 0, 0), math.pi + dice.uniform(-0.5, 0.5))], seat.footprint, 0.02)


def _living_group(dice: Dice, plan: Plan) -> None:
    couch = plan.against(dice, furniture.sofa(dice))
    if couch is None:
        return
    if dice.chance(0.3):
        sitter = person(dice, seat=couch.seat)
        reach = max(couch.footprint[0] / 2 - 0.5, 0.0)
        plan.put([sitter.at((dice.uniform(-reach, reach), -0.12, 0.0))], couch.position, couch.angle)
    if dice.chance(0.75):
        low = furniture.table(dice, low=True)
        group = [low]
        if dice.chance(0.6):
            carpet = decor.rug(dice)
            group.append(carpet)
        if plan.in_front(couch, group, low.footprint, dice.uniform(0.3, 0.45)):
            _on_top(dice, plan, plan.things[-len(group)], dice.integer(0, 2))


def _dining_group(dice: Dice, plan: Plan) -> None:
    top = furniture.table(dice)
    width, depth = top.footprint
    group = [top]
    kind = furniture.chair(dice)
    places = [(x, s) for s in (-1, 1) for x in ((-width / 4, width / 4) if width > 1.3 else (0.0,))]
    for x, side in places:
        if dice.chance(0.75):
            where = (x + dice.uniform(-0.05, 0.05), side * (depth / 2 + dice.uniform(0.1, 0.25)), 0.0)
            turn = (0.0 if side > 0 else math.pi) + dice.uniform(-0.25, 0.25)
            group.append(kind.at(where, turn))
            if dice.chance(0.2):
                group.append(person(dice, seat=kind.seat).at(where, turn))
    if dice.chance(0.35):
        group.append(decor.rug(dice))
    angle = dice.choice((0.0, math.pi / 2)) + (dice.uniform(-0.3, 0.3) if dice.chance(0.4) else 0.0)
    if plan.free(dice, group, (width + 0.1, depth + 1.0), height=1.0, angle=angle):
        _on_top(dice, plan, plan.things[-len(group)], dice.integer(1, 3))


def _people(dice: Dice, plan: Plan) -> None:
    for _ in range(dice.choice((0, 0, 1, 1, 1, 2))):
        someone = person(dice)
        facing = dice.uniform(-1.2, 1.2) - plan.yaw if dice.chance(0.75) else dice.uniform(-math.pi, math.pi)
        plan.free(dice, [someone], someone.footprint, height=0.5, angle=facing)


def _rest(dice: Dice, plan: Plan) -> None:
    if dice.chance(0.4):
        carpet = decor.rug(dice)
        # A rug is no obstacle: it may lie under furniture.
        taken, plan.taken = plan.taken, []
        plan.free(dice, [carpet], carpet.footprint, height=0.0, angle=dice.choice((0.0, 0.0, math.pi / 2, 0.2)))
        plan.taken = taken
    if dice.chance(0.35):
        seat = furniture.chair(dice)
        group = [seat]
        if dice.chance(0.4):
            group.append(person(dice, seat=seat.seat))
        plan.free(dice, group, seat.footprint, height=1.0)
    for chance, thing in (
        (0.5, decor.plant(dice, small=False)),
        (0.4, decor.lamp(dice, standing=True, lit=dice.chance(0.4))),
    ):
        if dice.chance(chance):
            plan.free(dice, [thing], thing.footprint, height=1.0)
    for _ in range(dice.integer(0, 2)):
        thing = decor.toy(dice)
        plan.free(dice, [thing], thing.footprint, height=0.3)
    for _ in range(dice.integer(0, 4)):
        plan.hang(dice, frame := decor.picture(dice), 1.35, 1.75, frame.height / 2)


def _on_top(dice: Dice, plan: Plan, owner: Thing, count: int) -> None:
    """Stand small things on a table or chest, side by side along its width."""
    width, depth = owner.footprint
    if owner.name == "table" and width == depth:
        width = width * 0.75
    count = min(count, int(width / 0.36))
    for i in range(count):
        kind = dice.uniform()
        if kind < 0.6:
            thing = decor.small_object(dice)
        elif kind < 0.8:
            thing = decor.lamp(dice, standing=False, lit=dice.chance(0.4))
        else:
            thing = decor.plant(dice, small=True)
        x = width * ((i + 0.5) / count - 0.5) + dice.uniform(-0.05, 0.05)
        at = (x, dice.uniform(-0.06, 0.06), owner.seat)
        plan.put([thing.at(at, dice.uniform(-0.6, 0.6))], owner.position, owner.angle)


def _ceiling_lamp(dice: Dice, plan: Plan, *, lit: bool) -> Thing | None:
    if not dice.chance(0.55):
        return None
    shade = decor.pendant(dice, lit=lit)
    for _ in range(12):
        x, y = dice.uniform(-0.35, 0.35) * plan.width, dice.uniform(1.6, plan.depth - 0.6)
        if plan.seen(x, y) and (x - plan.eye[0]) ** 2 + (y - plan.eye[1]) ** 2 > 1.5**2:
            return plan.put([shade], (x, y, plan.height), 0.0)[0]
    return None


def _skirting(dice: Dice, plan: Plan) -> None:
    """Skirting boards, as parts of the walls, interrupted by doors."""
    if not dice.chance(0.8):
        return
    board = m.painted(dice, m.WHITES) if dice.chance(0.7) else m.wood(dice)
    tall = dice.uniform(0.07, 0.12)
    for wall, turn in TURNS.items():
        low, high = (-plan.width / 2, plan.width / 2) if wall == "back" else (0.0, plan.depth)
        doors = [t for t in plan.things if t.name == "door" and t.angle == turn]
        cuts = sorted((_along(t, wall) - t.footprint[0] / 2, _along(t, wall) + t.footprint[0] / 2) for t in doors)
        start = low
        for end, following in [*cuts, (high, high)]:
            x, y = plan.wall_point(wall, (start + end) / 2, 0.008)
            strip = Thing("wall", [box((0, 0, tall / 2), (end - start, 0.016, tall), board)], fixed=True)
            plan.things.append(strip.at((x, y, 0.0), turn))
            start = following


def _along(thing: Thing, wall: str) -> float:
    return thing.position[0] if wall == "back" else thing.position[1]
