"""Furniture: tables, chairs, sofas, beds, cabinets and shelves. All face −y, their backs are at +y."""

from __future__ import annotations

from demt.data.rooms import materials as m
from demt.data.rooms.dice import Dice
from demt.data.rooms.materials import Material
from demt.data.rooms.parts import Part, Thing, ball, box, leaning, rod


def table(dice: Dice, *, low: bool = False) -> Thing:
    """A dining table or a coffee table (`low`): a top on four legs, on a foot, or on two panels."""
    height = dice.uniform(0.36, 0.46) if low else dice.uniform(0.7, 0.78)
    width, depth = (
        (dice.uniform(0.8, 1.2), dice.uniform(0.5, 0.7)) if low else (dice.uniform(1.1, 1.9), dice.uniform(0.75, 0.95))
    )
    top, legs = m.furniture(dice), m.furniture(dice) if dice.chance(0.4) else None
    under = legs or top
    thick = dice.uniform(0.03, 0.06)
    kind = dice.uniform()
    if kind < 0.25:
        radius = min(width, depth) * 0.6
        parts = [rod((0, 0, height - thick), (0, 0, height), radius, top)]
        foot = m.metal(dice) if dice.chance(0.5) else under
        parts += [
            rod((0, 0, 0.03), (0, 0, height - thick), 0.05, foot),
            rod((0, 0, 0), (0, 0, 0.03), radius * 0.6, foot),
        ]
        return Thing("table", parts, (2 * radius, 2 * radius), height, height)
    parts = [box((0, 0, height - thick / 2), (width, depth, thick), top)]
    x, y = width / 2 - 0.06, depth / 2 - 0.06
    if kind < 0.8:
        parts += _legs(dice, x, y, height - thick, under)
        if dice.chance(0.5):
            parts += [box((0, s * y, height - thick - 0.04), (2 * x, 0.025, 0.08), under) for s in (-1, 1)]
    else:
        parts += [box((s * x, 0, (height - thick) / 2), (0.04, depth * 0.85, height - thick), under) for s in (-1, 1)]
    if low and dice.chance(0.5):
        parts.append(box((0, 0, height * 0.35), (width * 0.88, depth * 0.85, 0.025), under))
    return Thing("table", parts, (width, depth), height, height)


def desk(dice: Dice) -> Thing:
    """A table with a chest of drawers under one side."""
    width, depth, height = dice.uniform(1.1, 1.5), dice.uniform(0.55, 0.7), dice.uniform(0.72, 0.77)
    top, body = m.furniture(dice), m.furniture(dice)
    side = dice.choice((-1, 1))
    parts = [box((0, 0, height - 0.02), (width, depth, 0.04), top)]
    parts.append(box((-side * (width / 2 - 0.03), 0, height / 2 - 0.02), (0.04, depth * 0.9, height - 0.04), body))
    parts += _chest(dice, side * (width / 2 - 0.22), 0.02, 0.4, depth * 0.85, 0.06, height - 0.04, body, rows=3)
    return Thing("table", parts, (width, depth), height, height)


def chair(dice: Dice) -> Thing:
    """A dining chair or stool with a back of boards, bars or a padded panel."""
    width, depth, seat = dice.uniform(0.4, 0.48), dice.uniform(0.4, 0.47), dice.uniform(0.43, 0.48)
    frame = m.metal(dice) if dice.chance(0.25) else m.furniture(dice)
    pad = m.cloth(dice) if dice.chance(0.6) else frame
    back = seat + dice.uniform(0.38, 0.55)
    x, y = width / 2 - 0.03, depth / 2 - 0.03
    parts = [box((0, 0, seat - 0.025), (width, depth, 0.05), pad), *_legs(dice, x, y, seat - 0.05, frame, radius=0.018)]
    lean = 0.12
    kind = dice.integer(0, 2)
    shift = (back - seat) * 0.06
    axes = leaning(-lean)
    if kind == 0:
        parts.append(box((0, y + shift, (seat + back) / 2 + 0.05), (width * 0.95, 0.035, back - seat - 0.1), pad, axes))
    else:
        count = dice.integer(3, 5) if kind == 1 else 2
        for i in range(count):
            at = -x + 2 * x * i / (count - 1)
            parts.append(rod((at, y, seat), (at, y + 2 * shift, back), 0.014, frame))
        for level in (0.94,) if kind == 1 else (0.4, 0.9):
            where = seat + (back - seat) * level
            parts.append(box((0, y + 2 * shift * level, where), (width, 0.025, 0.09), frame, axes))
    if kind == 0:
        parts += [rod((s * x, y, seat), (s * x, y + 2 * shift, back - 0.02), 0.014, frame) for s in (-1, 1)]
    return Thing("chair", parts, (width + 0.05, depth + 0.1), back, seat)


def sofa(dice: Dice) -> Thing:
    """An armchair, or a sofa of two or three seats, with cushions."""
    seats = dice.choice((1, 2, 2, 3, 3))
    arm, depth, seat = dice.uniform(0.14, 0.24), dice.uniform(0.82, 0.95), dice.uniform(0.4, 0.46)
    width = seats * dice.uniform(0.6, 0.68) + 2 * arm
    back, arms = seat + dice.uniform(0.36, 0.48), seat + dice.uniform(0.12, 0.22)
    fabric, legs = m.cloth(dice), m.painted(dice, m.METALS)
    inner, one = width - 2 * arm, (width - 2 * arm) / seats
    parts = [box((0, 0.02, 0.19), (width - 0.04, depth - 0.06, 0.18), fabric)]
    parts.append(box((0, depth / 2 - 0.1, (0.1 + back) / 2), (width - 0.02, 0.2, back - 0.1), fabric))
    rounded = dice.chance(0.5)
    for s in (-1, 1):
        x = s * (width - arm) / 2
        parts.append(box((x, 0, (0.1 + arms) / 2), (arm, depth, arms - 0.1), fabric))
        if rounded:
            parts.append(rod((x, -depth / 2, arms), (x, depth / 2 - 0.1, arms), arm / 2, fabric))
        parts += [box((s * (width / 2 - 0.08), t * (depth / 2 - 0.08), 0.05), (0.06, 0.06, 0.1), legs) for t in (-1, 1)]
    for i in range(seats):
        x = -inner / 2 + one * (i + 0.5)
        parts.append(box((x, -0.1, seat - 0.07), (one - 0.015, depth - 0.22, 0.14), fabric))
        parts.append(box((x, depth / 2 - 0.24, seat + 0.2), (one - 0.03, 0.14, 0.36), fabric, leaning(-0.15)))
    for _ in range(dice.integer(0, seats)):
        pillow = m.cloth(dice)
        x = dice.uniform(-inner / 2 + 0.2, inner / 2 - 0.2)
        parts.append(ball((x, depth / 2 - 0.36, seat + 0.18), (0.21, 0.08, 0.19), pillow, axes=leaning(-0.35)))
    return Thing("sofa", parts, (width, depth), back, seat)


def bed(dice: Dice) -> Thing:
    """A bed with mattress, blanket, pillows and a headboard (at the back)."""
    width, length = dice.choice((0.95, 1.45, 1.65)), dice.uniform(2.0, 2.15)
    frame, sheet, blanket = m.furniture(dice), m.painted(dice, m.WHITES), m.cloth(dice)
    top = dice.uniform(0.42, 0.55)
    head = top + dice.uniform(0.3, 0.6)
    parts = [box((0, 0, 0.2), (width + 0.06, length, 0.16), frame)]
    parts.append(
        box((0, length / 2 - 0.03, head / 2), (width + 0.08, 0.06, head), m.cloth(dice) if dice.chance(0.3) else frame)
    )
    parts.append(box((0, -0.03, (0.28 + top) / 2), (width, length - 0.1, top - 0.28), sheet))
    cover = dice.uniform(0.55, 0.75) * length
    parts.append(box((0, -length / 2 + cover / 2 - 0.01, top - 0.09), (width + 0.07, cover, 0.24), blanket))
    parts.append(box((0, -length / 2 + cover - 0.07, top + 0.02), (width + 0.075, 0.2, 0.05), sheet))
    parts += [
        box((s * (width / 2 - 0.06), t * (length / 2 - 0.06), 0.06), (0.07, 0.07, 0.12), frame)
        for s in (-1, 1)
        for t in (-1, 1)
    ]
    for x in (0.0,) if width < 1 else (-width / 4, width / 4):
        parts.append(ball((x, length / 2 - 0.32, top + 0.1), (0.32, 0.2, 0.1), sheet, axes=leaning(-0.25)))
    return Thing("bed", parts, (width + 0.1, length), head, top + 0.03)


def cabinet(dice: Dice, *, tall: bool) -> Thing:
    """A wardrobe (`tall`) or a sideboard, with doors or drawers and handles."""
    width, depth = dice.uniform(0.8, 1.6), dice.uniform(0.38, 0.58)
    height = dice.uniform(1.7, 2.1) if tall else dice.uniform(0.65, 1.0)
    body = m.furniture(dice)
    foot = dice.choice((0.06, 0.12))
    parts = _chest(dice, 0, 0, width, depth, foot, height, body, rows=1 if tall else dice.integer(1, 3))
    return Thing("cabinet", parts, (width, depth), height, 0 if tall else height)


def shelf(dice: Dice) -> tuple[Thing, list[Thing]]:
    """Open shelves, and the rows of books and other things that stand in them (each an instance of its own)."""
    width, depth = dice.uniform(0.7, 1.3), dice.uniform(0.26, 0.36)
    height, levels = dice.uniform(1.3, 2.0), dice.integer(4, 5)
    body = m.furniture(dice)
    parts = [box((s * (width / 2 - 0.012), 0, height / 2), (0.024, depth, height), body) for s in (-1, 1)]
    parts.append(box((0, depth / 2 - 0.006, height / 2), (width - 0.05, 0.012, height), body))
    step, inside = (height - 0.08) / (levels - 1), []
    for i in range(levels):
        z = 0.06 + step * i
        parts.append(box((0, 0, z), (width - 0.048, depth, 0.022), body))
        if i < levels - 1 and dice.chance(0.8):
            inside.append(_row(dice, width, depth, z + 0.011, step))
    return Thing("cabinet", parts, (width, depth), height), inside


def _row(dice: Dice, width: float, depth: float, z: float, step: float) -> Thing:
    length = dice.uniform(0.35, 0.9) * (width - 0.1)
    start = -width / 2 + 0.04 + dice.uniform() * (width - 0.08 - length)
    parts, x = [], start
    while x < start + length - 0.08:
        part = min(dice.uniform(0.12, 0.4), start + length - x)
        tall = dice.uniform(0.55, 0.82) * step
        binding = Material(
            dice.choice(m.BRIGHT), dice.choice(m.FABRICS), m.BOOKS, dice.uniform(0.03, 0.05), phase=dice.uniform()
        )
        parts.append(box((x + part / 2, 0.02, z + tall / 2), (part, depth * 0.7, tall), binding))
        x += part
    return Thing("object", parts or [box((start, 0, z + 0.06), (0.12, 0.12, 0.12), m.painted(dice, m.BRIGHT))])


def _legs(dice: Dice, x: float, y: float, height: float, material: Material, radius: float | None = None) -> list[Part]:
    radius = radius or dice.uniform(0.022, 0.045)
    corners = [(s * x, t * y) for s in (-1, 1) for t in (-1, 1)]
    if dice.chance(0.5):
        return [box((a, b, height / 2), (1.7 * radius, 1.7 * radius, height), material) for a, b in corners]
    return [rod((a, b, height), (a, b, 0), radius, material, end_radius=radius * 0.7) for a, b in corners]


def _chest(
    dice: Dice, x: float, y: float, width: float, depth: float, bottom: float, top: float, body: Material, *, rows: int
) -> list[Part]:
    """A closed body with fronts in rows and columns, a handle on each, on a plinth."""
    fronts = m.furniture(dice) if dice.chance(0.35) else body
    handles = m.metal(dice)
    columns = max(1, round(width / 0.5))
    parts = [box((x, y, (bottom + top) / 2), (width, depth, top - bottom), body)]
    parts.append(box((x, y + 0.01, bottom / 2), (width - 0.06, depth - 0.06, bottom), handles))
    w, h, front = (width - 0.02) / columns, (top - bottom - 0.03) / rows, y - depth / 2
    for i in range(columns):
        for j in range(rows):
            a, b = x - width / 2 + 0.01 + w * (i + 0.5), bottom + 0.01 + h * (j + 0.5)
            parts.append(box((a, front - 0.008, b), (w - 0.016, 0.018, h - 0.016), fronts))
            if rows > 1:
                parts.append(rod((a - 0.07, front - 0.03, b), (a + 0.07, front - 0.03, b), 0.008, handles))
            else:
                edge = a + (1 if i % 2 == 0 else -1) * (w / 2 - 0.05)
                parts.append(rod((edge, front - 0.03, b - 0.08), (edge, front - 0.03, b + 0.08), 0.008, handles))
    return parts
