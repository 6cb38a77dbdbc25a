"""The picture: patterns, shadows, smooth outlines, exposure."""

import numpy as np
import pytest

from demt.data.rooms import make_scene, render
from demt.data.rooms.antialias import smooth_outlines
from demt.data.rooms.cast import Rays, cast
from demt.data.rooms.develop import develop
from demt.data.rooms.dice import Dice
from demt.data.rooms.shade import openness
from demt.data.rooms.shadows import Occluders, light_points, smooth, visibility
from demt.data.rooms.surface import surface
from demt.data.rooms.textures import albedo
from tests.data.rooms import witness

SIZE = (60, 80)


@pytest.fixture(scope="module", params=range(3))
def seen(request):
    with np.errstate(all="ignore"):
        scene = make_scene(21, request.param)
        rays = Rays(scene)
        depth, solid, bounds = cast(scene, rays, SIZE)
        return scene, rays, solid, bounds, surface(scene, depth, solid)


def test_points_lie_on_the_solids_they_belong_to(seen):
    scene, _, solid, _, points = seen
    place = np.stack(points.point, 1).astype(float)
    normal = np.stack(points.normal, 1).astype(float)
    for k in np.unique(solid)[np.unique(solid) >= 6]:
        own = solid.ravel() == k
        gap = 2e-3 * scene.half[k].min() + 2e-5
        # Just below the surface is inside, just above it is outside.
        assert witness.inside(scene, k, place[own] - gap * normal[own]).mean() > 0.97
        assert not witness.inside(scene, k, place[own] + gap * normal[own]).any()


def test_colours_are_reflectances(seen):
    scene, _, _, _, points = seen
    with np.errstate(all="ignore"):
        colours = np.stack(albedo(scene, points))
    assert colours.dtype == np.float32
    assert colours.min() >= 0
    assert colours.max() < 1.6


def test_light_reaches_what_nothing_hides(seen):
    """Rays to the light's points against the ray marcher, for some of the pixels."""
    scene, _, _, _, points = seen
    occluders = Occluders(scene)
    target = light_points(scene.lights[0], SIZE)
    facing = sum((t - p) * n for t, p, n in zip(target, points.point, points.normal)) > 0.02
    some = np.flatnonzero(facing)[::37]
    lit = np.zeros(facing.shape, bool)
    lit[some] = True
    with np.errstate(all="ignore"):
        found = visibility(occluders, points, target, lit)[some]
    start = np.stack([p[some] + n[some] * 2e-3 for p, n in zip(points.point, points.normal)], 1).astype(float)
    way = np.stack([t[some] for t in target], 1) - start
    hidden = np.zeros(len(some), bool)
    for _, _, members in occluders.things:
        for k in members:
            first, last = witness.near(scene, k, start, way)
            hidden |= witness.first_inside(scene, k, start, way, first, np.minimum(last, 1)) <= 1
    assert (found == ~hidden).mean() > 0.96


def test_means_are_taken_over_one_surface():
    random = np.random.default_rng(0)
    values = random.random((13, 17)).astype(np.float32)
    ids = random.integers(0, 2, (13, 17)).astype(np.int32)
    expected = np.zeros((13, 17))
    for r in range(13):
        for c in range(17):
            block = (slice(max(r - 2, 0), r + 2), slice(max(c - 2, 0), c + 2))
            expected[r, c] = values[block][ids[block] == ids[r, c]].mean()
    np.testing.assert_allclose(smooth(values.ravel(), ids.ravel(), (13, 17)).reshape(13, 17), expected, rtol=1e-5)


def test_corners_are_darker_than_what_is_open(seen):
    scene, _, solid, _, points = seen
    light = openness(points, SIZE).reshape(SIZE)
    assert light.min() > 0.1
    assert light.max() <= 1
    shown = scene.instance[solid]
    corner = np.zeros(SIZE, bool)
    corner[1:] = (shown[1:] == 4) & (shown[:-1] < 4)
    assert corner.any()
    assert light[corner].mean() < 0.9 * np.median(light[shown < 4])


def test_outlines_mix_what_is_around_them(seen):
    scene, rays, solid, bounds, _ = seen
    # A picture of the solids' numbers: only at outlines may anything change, and only to what neighbours hold.
    before = np.stack([solid * 0.01, solid * 0.02, solid % 7]).astype(np.float32)
    after = before.copy()
    with np.errstate(all="ignore"):
        smooth_outlines(after, scene, rays, solid, bounds)
    padded = np.pad(solid, 1, mode="edge")
    around = [padded[i : i + SIZE[0], j : j + SIZE[1]] for i in range(3) for j in range(3)]
    outline = np.any([around[i] != solid for i in (1, 3, 5, 7)], 0)
    changed = (before != after).any(0)
    assert not (changed & ~outline).any()
    assert 0.2 < changed.sum() / outline.sum() < 0.9
    low, high = np.min(around, 0) * 0.01, np.max(around, 0) * 0.01
    assert (after[0] >= low - 1e-5).all()
    assert (after[0] <= high + 1e-5).all()


def test_exposure_does_not_depend_on_the_strength_of_the_light():
    light = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    bright, dark = (develop(light * np.float32(factor), Dice(1, 1, 1)) for factor in (8, 0.125))
    assert np.abs(bright.astype(int) - dark).max() <= 1
    assert 60 < bright.mean() < 190


def test_dice_change_the_exposure_alone():
    scene = make_scene(0, 0)
    first, second = (render(scene, (24, 32), Dice(0, i, 1)) for i in (0, 1))
    assert (first["image"] != second["image"]).any()
    assert all((first[name] == second[name]).all() for name in first if name != "image")
