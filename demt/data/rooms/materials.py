"""Surfaces: colours, patterns and gloss, and the palettes they are drawn from.

Colours are linear light in [0, 1]. Pictures are made with a gamma of 2, so that a stored value is a square root, which
every machine computes alike.
"""

from __future__ import annotations

from typing import NamedTuple

from demt.data.rooms.dice import Dice

Colour = tuple[float, float, float]

PLAIN, WOOD, TILES, STRIPES, CHECKER, FABRIC, BRICK, ART, VIEW, RUG, BOOKS, STONE, BOARDS = range(13)


class Material(NamedTuple):
    """A surface.

    Attributes:
        colour, second: Linear colours; patterns mix them.
        pattern: One of the constants of this module.
        scale: Period of the pattern in metres.
        gloss: Strength of the highlight, 0 to 1.
        glow: Emitted light as a multiple of the colour.
        phase: Random number in [0, 1) that shifts and varies the pattern.
        turned: Whether the pattern runs along the other direction.
    """

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: int = PLAIN
    scale: float = 1.0
    gloss: float = 0.0
    glow: float = 0.0
    phase: float = 0.0
    turned: bool = False


def colour(code: str) -> Colour:
    """Linear colour of a hexadecimal code.

    Example:
        >>> colour("ff8000")
        (1.0, 0.251965, 0.0)
    """
    red, green, blue = (round((int(code[i : i + 2], 16) / 255) ** 2, 6) for i in (0, 2, 4))
    return red, green, blue


def _palette(codes: str) -> tuple[Colour, ...]:
    return tuple(colour(code) for code in codes.split())


WALLS = _palette(
    "efe6d8 e8e4dc dfe6e4 d8e0e8 ecdcc8 c9d6cc e6cfc4 d5cbe0 b9c7cf c2b8a3 9fb3a6 c98f72 8fa3b8 e9d9a6 a7a29b f2efe9"
)
WOODS = _palette("a9743f 8a5a33 c49a63 6e4528 d8b482 5a3a24 b5835a 9c6b48 e0c69b 4a3024")
FABRICS = _palette(
    "8c3b3b 3d5a80 4f6f52 b07d3c 6d5b7b 9a9a94 d9cbb3 2f3e46 c05746 5b8e9a a33b5e e0b050 46494f 7a8f4b bfa2a0"
)
BRIGHT = _palette("d1322e e58a1f f0c928 3a9d4c 2b6fc2 7a3fa0 e35d8f 1fa5a0 f2f0ea 30343a")
METALS = _palette("b8b8ba 8d8f92 3a3b3d c9b37e 5d5147")
WHITES = _palette("f4f2ee ebe7df f7f7f7 e4e1da")
GREENS = _palette("3f7d3a 2f6133 5b9447 6fa65a 27503a 7d9f43")
POTS = _palette("b4623b e4e0d8 4a4a4c 7c8a94 c9a26b 8e3f36 2f5d62")
SKINS = _palette("f0c8a8 e0ac84 c68b60 9c6642 74482e 55331f")
HAIRS = _palette("2a1c14 4b2f1c 80552f c29a55 8d8a86 1b1a1c a44f2a")
FLOORS = _palette("b98a56 9a6b3f cfa877 7b5232 d9c3a0 8d8578 5f4630 c79d72")
STONES = _palette("d9d4c8 b7b2a8 8f9498 e6e2da a08c78 6c7074 c7b79d")


def wood(dice: Dice, *, scale: float = 0.12, gloss: float = 0.25) -> Material:
    """Boards of one kind of wood."""
    tone = dice.choice(WOODS)
    dark = (tone[0] * 0.55, tone[1] * 0.5, tone[2] * 0.45)
    return Material(tone, dark, WOOD, scale, gloss, phase=dice.uniform())


def painted(dice: Dice, tones: tuple[Colour, ...], *, gloss: float = 0.15) -> Material:
    """One colour."""
    return Material(vary(dice, dice.choice(tones)), gloss=gloss, phase=dice.uniform())


def metal(dice: Dice) -> Material:
    """Bare or lacquered metal."""
    return Material(dice.choice(METALS), gloss=0.7, phase=dice.uniform())


def cloth(dice: Dice, tones: tuple[Colour, ...] = FABRICS) -> Material:
    """Fabric: plain weave, sometimes striped or checked."""
    tone = vary(dice, dice.choice(tones))
    kind = dice.uniform()
    pattern = FABRIC if kind < 0.72 else STRIPES if kind < 0.88 else CHECKER
    other = dice.choice(FABRICS) if pattern != FABRIC else (tone[0] * 0.6, tone[1] * 0.6, tone[2] * 0.6)
    scale = 0.02 if pattern == FABRIC else dice.uniform(0.06, 0.16)
    return Material(tone, other, pattern, scale, phase=dice.uniform(), turned=dice.chance(0.5))


def furniture(dice: Dice) -> Material:
    """Wood, or white or coloured lacquer."""
    kind = dice.uniform()
    if kind < 0.65:
        return wood(dice)
    return painted(dice, WHITES if kind < 0.85 else FABRICS, gloss=0.3)


def wall(dice: Dice) -> Material:
    """Paint, or wallpaper with stripes, or bricks."""
    tone = vary(dice, dice.choice(WALLS))
    kind = dice.uniform()
    if kind < 0.62:
        return Material(tone, phase=dice.uniform())
    if kind < 0.8:
        paler = (tone[0] * 0.8, tone[1] * 0.8, tone[2] * 0.8)
        return Material(tone, paler, STRIPES, dice.uniform(0.12, 0.4), phase=dice.uniform(), turned=True)
    if kind < 0.9:
        brick = vary(dice, colour(dice.choice(("a5573c", "b8755a", "d8cfc4", "8c4a3a"))))
        return Material(brick, colour("cdc6ba"), BRICK, dice.uniform(0.2, 0.26), phase=dice.uniform())
    return Material(
        tone,
        (tone[0] * 0.7, tone[1] * 0.7, tone[2] * 0.7),
        BOARDS,
        dice.uniform(0.1, 0.2),
        phase=dice.uniform(),
        turned=True,
    )


def floor(dice: Dice) -> Material:
    """Boards, tiles, checks, stone or carpet."""
    kind = dice.uniform()
    turned = dice.chance(0.5)
    if kind < 0.5:
        tone = vary(dice, dice.choice(FLOORS))
        dark = (tone[0] * 0.6, tone[1] * 0.55, tone[2] * 0.5)
        return Material(tone, dark, WOOD, dice.uniform(0.1, 0.2), 0.3, phase=dice.uniform(), turned=turned)
    tone = vary(dice, dice.choice(STONES))
    if kind < 0.72:
        return Material(tone, colour("8d877c"), TILES, dice.uniform(0.3, 0.6), 0.45, phase=dice.uniform())
    if kind < 0.82:
        return Material(tone, dice.choice(STONES), CHECKER, dice.uniform(0.6, 1.0), 0.4, phase=dice.uniform())
    if kind < 0.9:
        return Material(tone, (tone[0] * 0.7, tone[1] * 0.7, tone[2] * 0.7), STONE, 0.5, 0.3, phase=dice.uniform())
    tone = vary(dice, dice.choice(FABRICS))
    return Material(tone, (tone[0] * 0.7, tone[1] * 0.7, tone[2] * 0.7), FABRIC, 0.03, phase=dice.uniform())


def vary(dice: Dice, tone: Colour, amount: float = 0.12) -> Colour:
    """A neighbour of a colour."""
    red, green, blue = (min(max(c * dice.uniform(1 - amount, 1 + amount), 0.004), 0.95) for c in tone)
    return red, green, blue
