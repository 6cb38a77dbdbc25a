"""Light on surfaces: linear colour of every pixel."""

from __future__ import annotations

import numpy as np

from demt.data.rooms import shadows
from demt.data.rooms.scene import Floats, Light, Scene
from demt.data.rooms.surface import Surface
from demt.data.rooms.textures import albedo

_SHINE = 5

#: Ambient occlusion: directions on the image, and steps as shares of its longer side.
_DIRECTIONS = ((1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7))
_STEPS = (0.008, 0.02, 0.045, 0.09)


def shade(scene: Scene, seen: Surface, size: tuple[int, int]) -> Floats:
    """Linear radiance (3, H, W) of the seen points."""
    base = albedo(scene, seen)
    occluders = shadows.Occluders(scene)
    ids = seen.solid.astype(np.int32) * 4 + seen.face
    open_ = openness(seen, size)
    up = seen.normal[2]
    # Light from everywhere: more from the sides and above than from the floor, which sends its own colour back.
    sky = open_ * (np.float32(0.85) + np.float32(0.15) * up)
    light = [sky * np.float32(c) for c in scene.ambient]
    shine = np.zeros_like(sky)
    for source in scene.lights:
        diffuse, mirror = _from(source, seen, occluders, ids, size)
        for i in range(3):
            light[i] += diffuse * np.float32(source.colour[i])
        shine += mirror * np.float32(source.colour[1])
    if scene.sun is not None:
        facing = sum(n * np.float32(d) for n, d in zip(seen.normal, scene.sun.direction))
        direct = shadows.smooth(shadows.sunlit(occluders, seen, scene.sun), ids, size) * np.maximum(facing, 0)
        for i in range(3):
            light[i] += direct * np.float32(scene.sun.colour[i])
    number = scene.material.take(seen.solid)
    gloss = np.array([s.gloss for s in scene.materials], np.float32).take(number)
    glow = np.array([s.glow for s in scene.materials], np.float32).take(number)
    shine *= gloss * np.float32(0.35)
    return np.stack([b * (e + glow) + shine for b, e in zip(base, light)]).reshape(3, *size)


def _from(
    source: Light,
    seen: Surface,
    occluders: shadows.Occluders,
    ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    size: tuple[int, int],
) -> tuple[Floats, Floats]:
    """Irradiance and highlight of one light, for an intensity of 1."""
    target = shadows.light_points(source, size)
    centre = source.points.mean(0)
    to = [np.float32(c) - p for c, p in zip(centre, seen.point)]
    distance = np.sqrt(to[0] * to[0] + to[1] * to[1] + to[2] * to[2])
    cosine = (to[0] * seen.normal[0] + to[1] * seen.normal[1] + to[2] * seen.normal[2]) / distance
    # What a large light sees of a surface does not end at once where its middle sets.
    strength = np.maximum(cosine + np.float32(0.08), 0) / np.float32(1.08) / (distance * distance + np.float32(0.35))
    if source.facing is not None:
        leaving = -sum(t * np.float32(f) for t, f in zip(to, source.facing)) / distance
        strength = strength * np.maximum(leaving + np.float32(0.15), 0)
    reached = shadows.smooth(shadows.visibility(occluders, seen, target, strength > np.float32(1e-3)), ids, size)
    strength = strength * reached
    # Blinn and Phong: the half vector between light and eye.
    length = np.sqrt(seen.ray[0] ** 2 + seen.ray[1] ** 2 + seen.ray[2] ** 2)
    half = [t / distance - r / length for t, r in zip(to, seen.ray)]
    size_of = np.sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2])
    mirror = np.maximum((half[0] * seen.normal[0] + half[1] * seen.normal[1] + half[2] * seen.normal[2]) / size_of, 0)
    for _ in range(_SHINE):
        mirror = mirror * mirror
    return strength, mirror * reached * (strength > 0)


def openness(seen: Surface, size: tuple[int, int]) -> Floats:
    """How much of the surroundings a point sees (N,), about 0.3 to 1: corners and the ground under things are darker.

    Every neighbour of a set of pixels hides light as far as it rises over the point's tangent plane, and the less the
    farther away it is.
    """
    p = [v.reshape(size) for v in seen.point]
    n = [v.reshape(size) for v in seen.normal]
    hidden = np.zeros(size, np.float32)
    for step in _STEPS:
        for direction in _DIRECTIONS:
            rows, columns = (round(step * max(size) * d) for d in direction)
            if rows == columns == 0:
                continue
            (r0, r1), (c0, c1) = shadows.overlap(rows, size[0]), shadows.overlap(columns, size[1])
            a, b = (r0, c0), (r1, c1)
            v = [q[b] - q[a] for q in p]
            square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + np.float32(1e-4)
            # One difference serves both ends of the pair.
            weight = 1 / (np.sqrt(square) * (1 + 6 * square))
            hidden[a] += np.maximum((v[0] * n[0][a] + v[1] * n[1][a] + v[2] * n[2][a]) * weight - np.float32(0.05), 0)
            hidden[b] += np.maximum(-(v[0] * n[0][b] + v[1] * n[1][b] + v[2] * n[2][b]) * weight - np.float32(0.05), 0)
    return (1 / (1 + hidden * np.float32(0.22))).ravel()
