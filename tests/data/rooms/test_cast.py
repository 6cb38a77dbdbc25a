"""The ray caster against the ray marcher of `witness`."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from demt.data.rooms import make_scene
from demt.data.rooms.cast import Rays, cast, interval
from demt.data.rooms.parts import BALL, BOX, CONE
from demt.data.rooms.scene import Camera
from demt.data.rooms.shadows import Occluders
from demt.data.rooms.surface import surface
from tests.data.rooms import witness

SIZE = (18, 24)


def quiet(function, *arguments):
    with np.errstate(all="ignore"):
        return function(*arguments)


@pytest.mark.parametrize("index", range(4))
def test_depth_and_solids_are_those_of_a_ray_marcher(index):
    scene = make_scene(11, index)
    depth, solid, _ = quiet(cast, scene, Rays(scene), SIZE)
    true_depth, true_solid = witness.march(scene, SIZE)
    # Marching steps over slivers, and surfaces of two solids may coincide.
    assert (np.abs(depth - true_depth) < 1e-4 * true_depth).mean() > 0.99
    assert (solid == true_solid).mean() > 0.98
    assert (depth < true_depth + 1e-4).all()


def test_rays_along_the_axes_of_the_room():
    """The middle ray of a level camera runs along two pairs of walls and along the sides of most furniture."""
    size = (15, 21)
    for index in range(6):
        scene = make_scene(11, index)
        scene = dataclasses.replace(scene, camera=Camera.looking(scene.camera.position, 0.0, 0.0, 0.0, 1.1))
        depth, solid, _ = quiet(cast, scene, Rays(scene), size)
        normal = np.stack(quiet(surface, scene, depth, solid).normal)
        true_depth, _ = witness.march(scene, size)
        assert np.isfinite(normal).all()
        # A sliver that marching steps over may be a column of pixels here.
        assert (np.abs(depth - true_depth) < 1e-4 * true_depth).mean() > 0.97
        assert (depth < true_depth + 1e-4).all()
        assert abs(depth[7, 10] - true_depth[7, 10]) < 1e-4


@pytest.mark.parametrize(
    ("kind", "taper"), [(BOX, 1.0), (BALL, 1.0), (CONE, 1.0), (CONE, 0.4), (CONE, 0.0), (CONE, 1.8)]
)
def test_intervals_bound_the_solid(kind, taper):
    """A line is inside the shape just within both ends and outside just beyond; one that misses never is inside."""
    random = np.random.default_rng(0)
    one = SimpleNamespace(
        kind=[kind], taper=[taper], centre=np.zeros((1, 3)), half=np.ones((1, 3)), axes=np.eye(3)[None]
    )
    start = random.uniform(-3, 3, (4000, 3))
    way = random.uniform(-1.2, 1.2, (4000, 3)) - start
    # Among them lines along an axis and steep ones, which the quadratic of a cone treats as special cases.
    way[:500, :2] *= 0.05
    way[500:600, :2] = 0 if kind != CONE or taper != 1 else 1e-3
    o, d = (tuple(v.T.astype(np.float32)) for v in (start, way))
    first, last = quiet(interval, kind, taper, o, d)
    hit = first <= last

    def is_in(t):
        return witness.inside(one, 0, start + t[:, None] * way)

    assert 0.15 < hit.mean() < 0.9
    long = hit & (last - first > 0.02)
    first, last = np.where(hit, first, 0), np.where(hit, last, 0)
    for inner, outer in ((first + 4e-3, first - 4e-3), (last - 4e-3, last + 4e-3)):
        assert is_in(inner)[long].all()
        assert not is_in(outer)[long].any()
    for t in np.linspace(-2, 4, 301):
        # Lines that only graze the shape may be missed.
        assert is_in(np.full(len(hit), t))[~hit].mean() < 5e-4


def test_shadow_rays_find_what_a_ray_marcher_finds():
    scene = make_scene(11, 1)
    occluders = Occluders(scene)
    random = np.random.default_rng(0)
    low, high = scene.centre[0] - scene.half[0], scene.centre[0] + scene.half[0]
    start, end = (random.uniform(low, high, (400, 3)) for _ in range(2))
    start32, way32 = start.astype(np.float32), (end - start).astype(np.float32)
    found = quiet(occluders.blocked, tuple(start32.T), tuple(way32.T))
    expected = np.zeros(400, bool)
    for _, _, members in occluders.things:
        for k in members:
            first, last = witness.near(scene, k, start, end - start)
            t = witness.first_inside(scene, k, start, end - start, first, np.minimum(last, 1))
            expected |= t <= 1
    assert 0.1 < expected.mean() < 0.9
    assert (found == expected).mean() > 0.99
