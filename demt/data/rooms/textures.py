"""Patterns: the colour of every seen point from its place on the surface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from demt.data.rooms import materials as m
from demt.data.rooms.dice import Dice
from demt.data.rooms.scene import Floats, Scene
from demt.data.rooms.surface import Surface

_TABLE = ((Dice(0, 0, 7).words(4096) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(64, 64)
_HALF = np.float32(0.5)
#: Which two local axes run over a face (the fourth row: round sides).
_ACROSS = np.array([(1, 2), (0, 2), (0, 1), (0, 2)])


@dataclasses.dataclass(frozen=True)
class Spots:
    """The points of one pattern.

    Attributes:
        u, v: Place on the face in periods of the pattern, shifted by its phase.
        a, b: Place on the face from −1 to 1.
        fine: 1 where the pattern is large against a pixel, 0 where it would be finer than one.
        phase: Per material, in [0, 1).
    """

    u: Floats
    v: Floats
    a: Floats
    b: Floats
    fine: Floats
    phase: Floats


def albedo(scene: Scene, seen: Surface) -> list[Floats]:
    """Linear colour of all points: three arrays (N,)."""
    number = scene.material.take(seen.solid)
    table = np.array(
        [(*s.colour, *s.second, s.scale, s.phase, s.pattern, s.turned) for s in scene.materials], np.float32
    )
    pattern = table[:, 8].take(number).astype(np.int8)
    base = [table[:, i].take(number) for i in range(3)]
    for kind in np.unique(pattern).tolist():
        where = np.flatnonzero(pattern == kind)
        own = table.take(number[where], 0).T
        spots = _spots(scene, seen, where, own)
        colours = _PAINTED[kind](spots) if kind in _PAINTED else _mixed(kind, spots, own)
        for channel, value in zip(base, colours):
            channel[where] = value
    return base


def _mixed(kind: int, spots: Spots, own: NDArray[np.float32]) -> list[Floats]:
    """The material's two colours, mixed and brightened as its pattern says."""
    share, light = _PATTERNS[kind](spots)
    share = _HALF + (share - _HALF) * spots.fine if kind in _FADING else share
    light = 1 + (light - 1) * spots.fine
    return [(own[i] + (own[i + 3] - own[i]) * share) * light for i in range(3)]


def _spots(scene: Scene, seen: Surface, where: NDArray[np.intp], own: NDArray[np.float32]) -> Spots:
    ids, local = seen.solid[where], [v[where] for v in seen.local]
    axes = _ACROSS[seen.face[where]]
    first, second = axes[:, 0], axes[:, 1]
    a, b = np.choose(first, local), np.choose(second, local)
    half = scene.half.astype(np.float32)
    u, v = a * half[ids, first], b * half[ids, second]
    round_side = seen.face[where] == 3
    u = np.where(round_side, u + local[1] * half[ids, 1], u)
    turned = own[9] > 0
    u, v = np.where(turned, v, u), np.where(turned, u, v)
    facing = -sum(seen.normal[i][where] * seen.ray[i][where] for i in range(3))
    pixel = seen.depth[where] * np.float32(_pixel(scene, seen)) / np.maximum(facing, np.float32(0.1))
    fine = np.clip((own[6] / pixel - np.float32(1.5)) / np.float32(4.0), 0, 1)
    return Spots(u / own[6] + own[7] * 37, v / own[6] + own[7] * 91, a, b, fine, own[7])


def _pixel(scene: Scene, seen: Surface) -> float:
    """Size of a pixel at distance 1, estimated from the number of pixels (of an image of 3 : 4)."""
    return 2 * scene.camera.reach / float(np.sqrt(seen.solid.size * 4 / 3))


def noise(u: Floats, v: Floats) -> Floats:
    """Smooth value noise in [0, 1] with period 64 and features of size 1."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    i, j = iu.astype(np.int32) & 63, iv.astype(np.int32) & 63
    k, n = (i + 1) & 63, (j + 1) & 63
    flat = _TABLE.ravel()
    low = flat.take(i * 64 + j) * (1 - fu) + flat.take(k * 64 + j) * fu
    high = flat.take(i * 64 + n) * (1 - fu) + flat.take(k * 64 + n) * fu
    return low * (1 - fv) + high * fv


def cell(u: Floats, v: Floats) -> Floats:
    """One random number in [0, 1) per unit square."""
    return _TABLE[np.floor(u).astype(np.int32) & 63, np.floor(v).astype(np.int32) & 63]


def _wave(u: Floats) -> Floats:
    """A smooth wave of period 1 between 0 and 1."""
    f = np.abs(2 * (u - np.floor(u)) - 1)
    return f * f * (3 - 2 * f)


def _edge(u: Floats, width: float) -> Floats:
    """1 near whole numbers, 0 elsewhere."""
    f = u - np.floor(u)
    return (np.minimum(f, 1 - f) < width).astype(np.float32)


#: Share of the second colour, and brightness.
Pair = tuple[Floats, Floats]


def _plain(s: Spots) -> Pair:
    return np.zeros_like(s.u), np.float32(0.97) + np.float32(0.06) * noise(s.u * 3, s.v * 3)


def _wood(s: Spots) -> Pair:
    row = np.floor(s.v)
    along = s.u * np.float32(0.12) + cell(row, row + 5) * 7
    grain = noise(s.u * np.float32(0.6) + row * 3, s.v * 9) * np.float32(0.5) + noise(s.u * 2, s.v * 30) * np.float32(
        0.2
    )
    gap = np.maximum(_edge(s.v, 0.03), _edge(along, 0.003))
    return np.clip(grain + gap * _HALF, 0, 1), np.float32(0.82) + np.float32(0.36) * cell(row, np.floor(along))


def _tiles(s: Spots) -> Pair:
    gap = np.maximum(_edge(s.u, 0.025), _edge(s.v, 0.025))
    return gap, np.float32(0.9) + np.float32(0.12) * cell(s.u, s.v) + np.float32(0.08) * noise(s.u * 6, s.v * 6)


def _stripes(s: Spots) -> Pair:
    return np.clip(_wave(s.v) * 4 - np.float32(1.5), 0, 1), np.ones_like(s.u)


def _checker(s: Spots) -> Pair:
    return ((np.floor(s.u * 2) + np.floor(s.v * 2)) % 2).astype(np.float32), np.float32(0.95) + np.float32(0.1) * noise(
        s.u * 5, s.v * 5
    )


def _fabric(s: Spots) -> Pair:
    weave = np.float32(0.35) * _wave(s.u * 2) + np.float32(0.35) * _wave(s.v * 2)
    return weave * np.float32(0.5), np.float32(0.85) + np.float32(0.3) * noise(
        s.u * np.float32(0.25), s.v * np.float32(0.25)
    )


def _brick(s: Spots) -> Pair:
    row = np.floor(s.v * 3)
    u = s.u + _HALF * (row % 2)
    gap = np.maximum(_edge(u, 0.025), _edge(s.v * 3, 0.07))
    return gap, np.float32(0.72) + np.float32(0.42) * cell(u, row) + np.float32(0.14) * noise(s.u * 12, s.v * 12)


def _stone(s: Spots) -> Pair:
    big = noise(s.u * 2, s.v * 2) * np.float32(0.6) + noise(s.u * 7, s.v * 7) * np.float32(0.3)
    vein = np.abs(noise(s.u * 3 + 9, s.v * 3) - _HALF) < np.float32(0.02)
    return np.clip(big + np.float32(0.4) * vein, 0, 1), np.ones_like(s.u)


def _boards(s: Spots) -> Pair:
    return _edge(s.v, 0.06), np.float32(0.95) + np.float32(0.08) * cell(s.v, s.v)


def _rug(s: Spots) -> Pair:
    rim = np.maximum(np.abs(s.a), np.abs(s.b))
    border = ((rim > np.float32(0.8)) & (rim < np.float32(0.9))).astype(np.float32)
    kind = np.floor(s.phase * 4)
    diamonds = (_wave(s.u) + _wave(s.v) > np.float32(1.25)).astype(np.float32)
    rings = _wave(rim * 4) > np.float32(0.7)
    lines = _wave(s.u) > np.float32(0.7)
    inside = np.select([kind == 0, kind == 1, kind == 2], [diamonds, rings, lines], np.float32(0)).astype(np.float32)
    share = np.where(rim > np.float32(0.8), border, inside)
    return share, np.float32(0.85) + np.float32(0.3) * noise(s.u * 6, s.v * 6)


def _spines(s: Spots) -> list[Floats]:
    """Spines of random colours, with a dark gap between two."""
    book = np.floor(s.u)
    light = np.where(_edge(s.u, 0.09) > 0, np.float32(0.3), 1) * (
        np.float32(0.75) + np.float32(0.5) * cell(book, book + 3)
    )
    tint = [cell(book + 11 * i, book * 3 + i) for i in range(3)]
    mean = (tint[0] + tint[1] + tint[2]) / 3
    return [np.float32(0.03) + np.float32(0.6) * np.square(mean + (t - mean) * np.float32(0.8)) * light for t in tint]


def _outside(s: Spots) -> list[Floats]:
    """Sky above hills and trees, or above houses."""
    ridge = np.float32(-0.45) + np.float32(0.5) * noise(s.a * 2 + s.phase * 50, s.phase * 64 * np.ones_like(s.a))
    town = np.floor(s.phase * 8) % 2 == 0
    ridge = np.where(town, np.float32(-0.6) + np.float32(0.9) * cell(s.a * 4 + s.phase * 40, s.a * 4), ridge)
    below = s.b < ridge
    haze = np.clip((s.b + 1) / 2, 0, 1)
    sky = [np.float32(1.0) - np.float32(w) * haze for w in (0.5, 0.25, 0.02)]
    mass = np.float32(0.7) + np.float32(0.6) * noise(s.a * 9, s.b * 9)
    ground = [np.where(town, np.float32(g), np.float32(h)) * mass for g, h in ((0.22, 0.1), (0.2, 0.2), (0.19, 0.07))]
    return [np.where(below, g, k) for g, k in zip(ground, sky)]


def _art(s: Spots) -> Pair:
    kind = np.floor(s.phase * 5)
    sun = (np.square(s.a - s.phase) + np.square(s.b - np.float32(0.3)) < np.float32(0.12)).astype(np.float32)
    hills = (s.b < np.float32(0.9) * noise(s.a * 2 + s.phase * 60, s.phase * 64 + 0 * s.a) - np.float32(0.5)).astype(
        np.float32
    )
    blocks = (cell(s.a * 2 + s.phase * 50, s.b * 2 + s.phase * 20) > np.float32(0.5)).astype(np.float32)
    waves = _wave(s.b * 2 + noise(s.a * 2, s.b + s.phase * 64))
    rings = _wave((s.a * s.a + s.b * s.b) * 2)
    share = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3], [np.maximum(sun, hills), hills, blocks, waves], rings
    )
    return share.astype(np.float32), np.float32(0.8) + np.float32(0.4) * noise(s.a * 5 + s.phase * 9, s.b * 5)


_PATTERNS: dict[int, Callable[[Spots], Pair]] = {
    m.PLAIN: _plain,
    m.WOOD: _wood,
    m.TILES: _tiles,
    m.STRIPES: _stripes,
    m.CHECKER: _checker,
    m.FABRIC: _fabric,
    m.BRICK: _brick,
    m.STONE: _stone,
    m.BOARDS: _boards,
    m.RUG: _rug,
    m.ART: _art,
}
#: Patterns that turn into the mean of their colours where they are finer than a pixel.
_FADING = {m.STRIPES, m.CHECKER}
_PAINTED: dict[int, Callable[[Spots], list[Floats]]] = {m.BOOKS: _spines, m.VIEW: _outside}
