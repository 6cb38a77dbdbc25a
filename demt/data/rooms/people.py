"""Jointed mannequins, standing or sitting, with the six body parts of PASCAL-Person-Part."""

from __future__ import annotations

from demt.data.rooms import materials as m
from demt.data.rooms.dice import Dice
from demt.data.rooms.materials import Material
from demt.data.rooms.parts import Part, Thing, Vec, ball, cos_sin, rod

HEAD, TORSO, UPPER_ARMS, LOWER_ARMS, UPPER_LEGS, LOWER_LEGS = range(1, 7)


def person(dice: Dice, *, seat: float | None = None) -> Thing:
    """A person who faces −y, on the floor or, with `seat`, on a seat of that height.

    Proportions are those of drawing books: the hips at half the height, the shoulders at 0.82 of it.
    """
    tall = dice.uniform(1.5, 1.9)
    skin = Material(m.vary(dice, dice.choice(m.SKINS), 0.08), gloss=0.1)
    shirt, trousers = m.cloth(dice), m.cloth(dice)
    shoes = m.painted(dice, m.METALS + m.WHITES[:1])
    hips = 0.52 * tall if seat is None else seat + 0.075 * tall
    build = dice.uniform(0.9, 1.15)
    parts = _trunk(dice, tall, hips, build, skin, shirt, trousers)
    sleeves = shirt if dice.chance(0.55) else skin
    legs = trousers if dice.chance(0.75) else skin
    walk = dice.uniform(-0.45, 0.45) if seat is None else 0.0
    busy = dice.chance(0.45)
    for side in (-1, 1):
        swing, spread = -side * walk * 0.8 + dice.uniform(-0.1, 0.2), dice.uniform(0.08, 0.3)
        bend = dice.uniform(0.1, 0.7)
        if seat is not None:
            swing, bend = dice.uniform(0.2, 0.6), dice.uniform(0.7, 1.3)
        elif busy and dice.chance(0.6):
            swing, spread, bend = dice.uniform(0.4, 2.6), dice.uniform(0.1, 0.9), dice.uniform(0.2, 1.5)
        parts += _arm(side, tall, hips, build, (swing, spread, bend), shirt, sleeves, skin)
        lift, knee = side * walk, max(0.0, -side * walk) * 0.9 + 0.05
        if seat is not None:
            lift, knee = dice.uniform(1.3, 1.5), dice.uniform(1.3, 1.6)
        parts += _leg(side, tall, hips, build, lift, knee, trousers, legs, shoes)
    if seat is None:
        # A stride leaves both feet above the floor: lower the body until one stands on it.
        drop = min(part.centre[2] - part.half[2] for part in parts)
        parts = [part._replace(centre=(part.centre[0], part.centre[1], part.centre[2] - drop)) for part in parts]
    return Thing("person", parts, (0.62, 0.5 if seat is None else 0.9), hips + 0.48 * tall)


def _trunk(
    dice: Dice, tall: float, hips: float, build: float, skin: Material, shirt: Material, trousers: Material
) -> list[Part]:
    w, d = 0.1 * tall * build, 0.068 * tall * build
    shoulders = hips + 0.3 * tall
    head = hips + 0.405 * tall
    hair = m.painted(dice, m.HAIRS, gloss=0.2)
    parts = [
        ball((0, 0, hips + 0.005 * tall), (w * 0.92, d, 0.07 * tall), trousers, body=TORSO),
        ball((0, 0, hips + 0.1 * tall), (w * 0.85, d * 0.92, 0.1 * tall), shirt, body=TORSO),
        ball((0, 0, hips + 0.21 * tall), (w, d, 0.12 * tall), shirt, body=TORSO),
        rod(
            (-w * 0.95, 0, shoulders - 0.02 * tall),
            (w * 0.95, 0, shoulders - 0.02 * tall),
            0.037 * tall,
            shirt,
            body=TORSO,
        ),
        rod((0, 0, shoulders - 0.02 * tall), (0, 0, head - 0.03 * tall), 0.03 * tall, skin, body=TORSO),
        ball((0, -0.005 * tall, head), (0.046 * tall, 0.055 * tall, 0.067 * tall), skin, body=HEAD),
        ball((0, -0.06 * tall, head - 0.005 * tall), (0.009 * tall, 0.012 * tall, 0.013 * tall), skin, body=HEAD),
    ]
    if dice.chance(0.9):
        parts.append(
            ball((0, 0.014 * tall, head + 0.02 * tall), (0.05 * tall, 0.053 * tall, 0.056 * tall), hair, body=HEAD)
        )
    if dice.chance(0.35):
        parts.append(
            ball((0, 0.035 * tall, head - 0.03 * tall), (0.05 * tall, 0.03 * tall, 0.08 * tall), hair, body=HEAD)
        )
    eyes = Material((0.01, 0.01, 0.012), gloss=0.5)
    parts += [
        ball((s * 0.018 * tall, -0.055 * tall, head + 0.008 * tall), 0.0055 * tall, eyes, body=HEAD) for s in (-1, 1)
    ]
    return parts


def _arm(
    side: int, tall: float, hips: float, build: float, angles: Vec, shirt: Material, sleeves: Material, skin: Material
) -> list[Part]:
    swing, spread, bend = angles
    r = 0.027 * tall * build
    shoulder = (side * (0.1 * tall * build + 0.4 * r), 0.0, hips + 0.285 * tall)
    elbow = _along(shoulder, side, swing, spread, 0.165 * tall)
    wrist = _along(elbow, side, swing + bend, spread * 0.4, 0.14 * tall)
    hand = _along(wrist, side, swing + bend, spread * 0.4, 0.035 * tall)
    return [
        ball(shoulder, 1.25 * r, shirt, body=UPPER_ARMS),
        rod(shoulder, elbow, 1.1 * r, shirt, end_radius=0.85 * r, body=UPPER_ARMS),
        ball(elbow, 0.85 * r, sleeves, body=LOWER_ARMS),
        rod(elbow, wrist, 0.85 * r, sleeves, end_radius=0.6 * r, body=LOWER_ARMS),
        ball(hand, (0.75 * r, 0.95 * r, 1.2 * r), skin, body=LOWER_ARMS),
    ]


def _leg(
    side: int,
    tall: float,
    hips: float,
    build: float,
    lift: float,
    knee: float,
    trousers: Material,
    legs: Material,
    shoes: Material,
) -> list[Part]:
    r = 0.042 * tall * build
    hip = (side * 0.052 * tall * build, 0.0, hips - 0.02 * tall)
    joint = _along(hip, side, lift, 0.05, 0.24 * tall)
    ankle = _along(joint, side, lift - knee, 0.02, 0.225 * tall)
    foot = (ankle[0], ankle[1] - 0.045 * tall, ankle[2] - 0.012 * tall)
    return [
        rod(hip, joint, 1.1 * r, trousers, end_radius=0.8 * r, body=UPPER_LEGS),
        ball(joint, 0.8 * r, legs, body=LOWER_LEGS),
        rod(joint, ankle, 0.78 * r, legs, end_radius=0.55 * r, body=LOWER_LEGS),
        ball(foot, (0.028 * tall, 0.072 * tall, 0.024 * tall), shoes, body=LOWER_LEGS),
    ]


def _along(start: Vec, side: int, swing: float, spread: float, length: float) -> Vec:
    """End of a bone that hangs down, swung forwards (towards −y) and spread to its side, both in radians."""
    (c, s), (spread_c, spread_s) = cos_sin(swing), cos_sin(spread)
    return (
        start[0] + side * spread_s * length,
        start[1] - s * spread_c * length,
        start[2] - c * spread_c * length,
    )
