"""What furnishes a room besides furniture: doors, windows, pictures, rugs, lamps, plants and small objects."""

from __future__ import annotations

from demt.data.rooms import materials as m
from demt.data.rooms.dice import Dice
from demt.data.rooms.materials import Material
from demt.data.rooms.parts import Part, Thing, ball, box, cos_sin, rod

DOOR_HEIGHT = 2.05


def door(dice: Dice) -> Thing:
    """A door in its frame, flat against the wall behind it (at +y)."""
    width = dice.uniform(0.8, 0.95)
    kind = dice.uniform()
    leaf = m.wood(dice) if kind < 0.5 else m.painted(dice, m.WHITES if kind < 0.8 else m.FABRICS, gloss=0.3)
    leaf = leaf._replace(turned=True)
    frame = m.painted(dice, m.WHITES) if dice.chance(0.6) else leaf
    parts = [box((0, 0.0, DOOR_HEIGHT / 2), (width, 0.05, DOOR_HEIGHT), leaf)]
    parts += [
        box((s * (width / 2 + 0.035), -0.01, DOOR_HEIGHT / 2 + 0.03), (0.07, 0.09, DOOR_HEIGHT + 0.06), frame)
        for s in (-1, 1)
    ]
    parts.append(box((0, -0.01, DOOR_HEIGHT + 0.03), (width + 0.14, 0.09, 0.07), frame))
    columns, rows = dice.choice(((1, 2), (2, 2), (2, 3), (1, 3), (0, 0)))
    for i in range(columns):
        for j in range(rows):
            w, h = (width - 0.12) / columns, (DOOR_HEIGHT - 0.24) / rows
            at = (-width / 2 + 0.06 + w * (i + 0.5), -0.03, 0.16 + h * (j + 0.5))
            parts.append(box(at, (w - 0.07, 0.03, h - 0.09), leaf))
    side, handle = dice.choice((-1, 1)), m.metal(dice)
    x = side * (width / 2 - 0.08)
    parts.append(rod((x, -0.02, 1.02), (x, -0.075, 1.02), 0.016, handle))
    parts.append(rod((x + side * 0.01, -0.075, 1.02), (x - side * 0.11, -0.075, 1.02), 0.013, handle))
    return Thing("door", parts, (width + 0.14, 0.06), DOOR_HEIGHT + 0.07, fixed=True)


def window(dice: Dice, day: bool) -> Thing:
    """A window: panes that show what is outside, a frame, bars and a sill. Its origin is the middle of the sill."""
    width, height = dice.uniform(0.9, 2.0), dice.uniform(1.0, 1.35)
    frame = m.painted(dice, m.WHITES, gloss=0.3) if dice.chance(0.7) else m.wood(dice)
    outside = Material((1.0, 1.0, 1.0), pattern=m.VIEW, glow=2.2 if day else 0.05, phase=dice.uniform())
    parts = [box((0, 0.01, height / 2), (width, 0.02, height), outside)]
    for s in (-1, 1):
        parts.append(box((s * width / 2, -0.01, height / 2), (0.08, 0.07, height + 0.08), frame))
        parts.append(box((0, -0.01, height / 2 + s * height / 2), (width + 0.08, 0.07, 0.08), frame))
    for i in range(1, dice.integer(1, 3)):
        parts.append(box((width * (i / 2 - 0.5), -0.01, height / 2), (0.05, 0.05, height), frame))
    if dice.chance(0.4):
        parts.append(box((0, -0.01, height * 0.66), (width, 0.045, 0.045), frame))
    parts.append(box((0, -0.06, -0.05), (width + 0.2, 0.18, 0.035), frame))
    if dice.chance(0.5):
        parts += _curtains(dice, width, height)
    return Thing("window", parts, (width + 0.24, 0.1), height, fixed=True)


def _curtains(dice: Dice, width: float, height: float) -> list[Part]:
    fabric, rail = m.cloth(dice), m.metal(dice)
    parts = [rod((-width / 2 - 0.3, -0.09, height + 0.14), (width / 2 + 0.3, -0.09, height + 0.14), 0.014, rail)]
    bottom = dice.choice((-0.12, -0.75))
    folds = dice.integer(3, 4)
    for s in (-1, 1):
        for i in range(folds):
            x = s * (width / 2 + 0.22 - 0.1 * i)
            parts.append(rod((x, -0.09, height + 0.12), (x, -0.09, bottom), 0.055, fabric, end_radius=0.062))
    return parts


def picture(dice: Dice) -> Thing:
    """A framed picture, perhaps with a mount. Its origin is its middle."""
    width, height = dice.uniform(0.35, 1.1), dice.uniform(0.35, 0.8)
    frame = dice.choice((m.painted(dice, m.METALS), m.wood(dice), m.painted(dice, m.WHITES)))
    art = Material(dice.choice(m.BRIGHT), dice.choice(m.FABRICS), m.ART, 1.0, 0.15, phase=dice.uniform())
    parts = [box((0, 0, 0), (width, 0.03, height), frame)]
    border = 0.06
    if dice.chance(0.5):
        parts.append(box((0, -0.014, 0), (width - 0.06, 0.01, height - 0.06), m.painted(dice, m.WHITES)))
        border = 0.06 + 0.2 * min(width, height)
    parts.append(box((0, -0.018, 0), (width - border, 0.01, height - border), art))
    return Thing("picture", parts, (width, 0.05), height, fixed=True)


def rug(dice: Dice) -> Thing:
    """A rectangular or round rug."""
    width, depth = dice.uniform(1.5, 2.4), dice.uniform(1.1, 1.7)
    weave = Material(
        m.vary(dice, dice.choice(m.FABRICS)),
        m.vary(dice, dice.choice(m.FABRICS)),
        m.RUG,
        dice.uniform(0.1, 0.25),
        phase=dice.uniform(),
    )
    if dice.chance(0.3):
        radius = depth * 0.6
        return Thing("rug", [rod((0, 0, 0), (0, 0, 0.015), radius, weave)], (2 * radius, 2 * radius), 0.015, fixed=True)
    return Thing("rug", [box((0, 0, 0.0075), (width, depth, 0.015), weave)], (width, depth), 0.015, fixed=True)


def lamp(dice: Dice, *, standing: bool, lit: bool) -> Thing:
    """A floor lamp (`standing`) or a table lamp."""
    height, stand = (
        (dice.uniform(1.4, 1.75), m.metal(dice))
        if standing
        else (dice.uniform(0.38, 0.55), m.painted(dice, m.POTS, gloss=0.4))
    )
    radius = dice.uniform(0.17, 0.24) if standing else dice.uniform(0.11, 0.16)
    size = radius * dice.uniform(1.1, 1.5)
    parts = [rod((0, 0, 0), (0, 0, 0.025), radius * 0.75, stand)]
    if standing or dice.chance(0.4):
        parts.append(rod((0, 0, 0.02), (0, 0, height - 0.03), 0.014, stand))
    else:
        parts.append(ball((0, 0, (height - size) / 2), (radius * 0.55, radius * 0.55, (height - size) / 2), stand))
    parts.append(_shade(dice, height, size, radius, lit))
    return Thing("lamp", parts, (2 * radius, 2 * radius), height)


def pendant(dice: Dice, *, lit: bool) -> Thing:
    """A lamp that hangs from the ceiling; its origin is where it is fixed."""
    drop, cord = dice.uniform(0.25, 0.6), m.painted(dice, m.METALS)
    parts = [rod((0, 0, 0), (0, 0, -drop), 0.01, cord), rod((0, 0, -0.03), (0, 0, 0), 0.06, cord)]
    kind = dice.uniform()
    radius = dice.uniform(0.15, 0.26)
    if kind < 0.45:
        globe = Material(m.colour("fff3dc"), glow=1.6 if lit else 0.0, gloss=0.2)
        parts.append(ball((0, 0, -drop - radius * 0.8), radius, globe))
    else:
        parts.append(_shade(dice, -drop + 0.03, radius * 1.2, radius, lit))
    return Thing("lamp", parts, (2 * radius, 2 * radius), 0.0)


def _shade(dice: Dice, top: float, size: float, radius: float, lit: bool) -> Part:
    tone = m.vary(dice, m.colour(dice.choice(("f6e7c8", "f3efe6", "e8c9a0", "d98f5c", "9fb8b0"))))
    shade = Material(tone, glow=1.1 if lit else 0.0, phase=dice.uniform())
    return rod((0, 0, top - size), (0, 0, top), radius, shade, end_radius=radius * dice.uniform(0.5, 0.95))


def plant(dice: Dice, *, small: bool) -> Thing:
    """A plant in a pot: leaves as ellipsoids around stems, or a ball of foliage."""
    scale = dice.uniform(0.25, 0.4) if small else dice.uniform(0.8, 1.4)
    pot, stem = m.painted(dice, m.POTS, gloss=0.3), m.painted(dice, m.GREENS)
    radius, rim = (0.07, 0.12) if small else (dice.uniform(0.14, 0.19), dice.uniform(0.24, 0.36))
    soil = m.painted(dice, m.HAIRS)
    parts = [
        rod((0, 0, 0), (0, 0, rim), radius * 0.75, pot, end_radius=radius),
        rod((0, 0, rim - 0.02), (0, 0, rim + 0.004), radius * 0.85, soil),
    ]
    leaves = [Material(m.vary(dice, dice.choice(m.GREENS)), gloss=0.2, phase=dice.uniform()) for _ in range(3)]
    crown = rim + scale * 0.55
    count = dice.integer(7, 9) if small else dice.integer(10, 13)
    if dice.chance(0.3) and not small:
        parts.append(rod((0, 0, rim), (0, 0, crown), 0.03, m.painted(dice, m.HAIRS)))
        for _ in range(6):
            at = (dice.uniform(-0.16, 0.16), dice.uniform(-0.16, 0.16), crown + dice.uniform(-0.05, 0.25))
            parts.append(ball(at, dice.uniform(0.13, 0.2), dice.choice(leaves)))
        return Thing("plant", parts, (0.6, 0.6), crown + 0.4)
    for i in range(count):
        c, s = cos_sin(i * 2.4 + dice.uniform(-0.3, 0.3))
        tilt_c, tilt_s = cos_sin(dice.uniform(0.15, 1.15))
        along = (c * tilt_s, s * tilt_s, tilt_c)
        length = scale * dice.uniform(0.55, 0.8)
        middle = (along[0] * length * 0.6, along[1] * length * 0.6, rim + along[2] * length * 0.6)
        axes = ((-s, c, 0.0), (c * tilt_c, s * tilt_c, -tilt_s), along)
        parts.append(ball(middle, (length * 0.14, length * 0.03, length * 0.45), dice.choice(leaves), axes=axes))
    parts.append(rod((0, 0, rim), (0, 0, rim + scale * 0.3), 0.012, stem))
    return Thing("plant", parts, (2 * radius + 0.1, 2 * radius + 0.1), rim + scale)


def small_object(dice: Dice) -> Thing:
    """Something to stand on a table: a vase, a ball, a bowl, a pile of books, a box or a mug."""
    kind = dice.integer(0, 5)
    paint = Material(m.vary(dice, dice.choice(m.BRIGHT)), gloss=0.6, phase=dice.uniform())
    if kind == 0:
        r, h = dice.uniform(0.05, 0.08), dice.uniform(0.2, 0.34)
        parts = [
            ball((0, 0, h * 0.4), (r, r, h * 0.4), paint),
            rod((0, 0, h * 0.6), (0, 0, h), r * 0.45, paint, end_radius=r * 0.75),
        ]
        parts.append(rod((0, 0, 0), (0, 0, h * 0.2), r * 0.7, paint))
    elif kind == 1:
        r = dice.uniform(0.07, 0.12)
        parts = [ball((0, 0, r), r, paint._replace(second=dice.choice(m.BRIGHT), pattern=m.STRIPES, scale=r))]
    elif kind == 2:
        r = dice.uniform(0.12, 0.17)
        parts = [rod((0, 0, 0), (0, 0, 0.08), r * 0.5, paint, end_radius=r)]
        fruit = Material(dice.choice(m.BRIGHT[:4]), gloss=0.4)
        parts += [ball((0.45 * r * x, 0.45 * r * y, 0.1), 0.045, fruit) for x, y in ((-1, -0.6), (1, -0.6), (0, 1))]
    elif kind == 3:
        parts, z = [], 0.0
        for _ in range(dice.integer(2, 4)):
            thick = dice.uniform(0.025, 0.05)
            cover = m.painted(dice, m.BRIGHT)
            parts.append(
                box((dice.uniform(-0.02, 0.02), 0, z + thick / 2), (dice.uniform(0.18, 0.26), 0.17, thick), cover)
            )
            z += thick
    elif kind == 4:
        w, h = dice.uniform(0.14, 0.26), dice.uniform(0.1, 0.24)
        parts = [
            box((0, 0, h / 2), (w, w * 0.7, h), m.cloth(dice)),
            box((0, 0, h), (w + 0.015, w * 0.7 + 0.015, 0.03), paint),
        ]
    else:
        parts = [
            rod((0, 0, 0), (0, 0, 0.11), 0.045, paint),
            rod((0, 0, 0.1), (0, 0, 0.113), 0.036, m.painted(dice, m.HAIRS)),
        ]
        parts.append(box((0.055, 0, 0.055), (0.03, 0.012, 0.06), paint))
    return Thing("object", parts, (0.3, 0.3), 0.3)


def toy(dice: Dice) -> Thing:
    """Something on the floor: a large ball, a crate, or a pile of cubes."""
    kind = dice.integer(0, 2)
    paint = Material(m.vary(dice, dice.choice(m.BRIGHT)), gloss=0.5, phase=dice.uniform())
    if kind == 0:
        r = dice.uniform(0.12, 0.3)
        return Thing(
            "object",
            [ball((0, 0, r), r, paint._replace(second=dice.choice(m.BRIGHT), pattern=m.STRIPES, scale=r * 0.8))],
            (2 * r, 2 * r),
            2 * r,
        )
    if kind == 1:
        w, d, h = dice.uniform(0.35, 0.6), dice.uniform(0.3, 0.45), dice.uniform(0.25, 0.45)
        crate = m.wood(dice) if dice.chance(0.5) else m.cloth(dice)
        return Thing(
            "object",
            [box((0, 0, h / 2), (w, d, h), crate), box((0, 0, h), (w + 0.03, d + 0.03, 0.05), paint)],
            (w, d),
            h,
        )
    size = dice.uniform(0.14, 0.24)
    places = ((-0.55, 0, 0.5), (0.55, 0.05, 0.5), (0, 0, 1.5))
    cubes = [box((x * size, y * size, z * size), (size, size, size), m.painted(dice, m.BRIGHT)) for x, y, z in places]
    return Thing("object", cubes, (2.2 * size, 1.2 * size), 2 * size)
