"""Labels fit each other, the geometry and the rules that the documentation states."""

import numpy as np
import pytest

from demt.classes import ROOMS_CLASSES
from demt.data import SyntheticRooms
from demt.data.rooms import make_scene
from demt.data.rooms.cast import Rays, cast
from tests.data.rooms import witness

PERSON = ROOMS_CLASSES.index("person")


@pytest.fixture(scope="module")
def scenes():
    rooms = SyntheticRooms(size=(96, 128), length=12, seed=3)
    return [rooms.render(i) for i in range(len(rooms))]


@pytest.fixture(scope="module")
def small():
    rooms = SyntheticRooms(size=(36, 48), length=200, seed=4)
    return [rooms.render(i) for i in range(len(rooms))]


def test_every_class_and_part_occurs_often(small):
    for task, count in (("semseg", 16), ("human_parts", 7), ("sal", 2)):
        present = np.array([np.bincount(maps[task].ravel(), minlength=count) > 0 for maps in small])
        assert present.shape[1] == count
        assert (present.mean(0) > 0.2).all(), (task, present.mean(0))


def test_values_are_in_range(small):
    for maps in small:
        assert all(np.isfinite(values).all() for values in maps.values())
        assert 0.5 <= maps["depth"].min() <= maps["depth"].max() <= 10
        np.testing.assert_allclose((maps["normals"] ** 2).sum(0), 1, atol=1e-5)
        assert 60 < maps["image"].mean() < 200
        assert maps["image"].std() > 15


def test_parts_are_those_of_people(small):
    for maps in small:
        np.testing.assert_array_equal(maps["human_parts"] > 0, maps["semseg"] == PERSON)


def test_edges_are_where_instances_or_parts_change(scenes):
    for maps in scenes:
        key = maps["instance"] * 8 + maps["human_parts"]
        expected = np.zeros(key.shape, bool)
        for row in range(key.shape[0]):
            for column in range(key.shape[1]):
                around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
                expected[row, column] = any(
                    key[r, c] != key[row, column] for r, c in around if 0 <= r < key.shape[0] and 0 <= c < key.shape[1]
                )
        np.testing.assert_array_equal(maps["edge"], expected)
        assert 0.02 < expected.mean() < 0.4


def test_normals_are_those_of_the_depth(scenes):
    """Where a surface is smooth, the cross product of its tangents is the normal: x left, y up, z to the camera."""
    angles = []
    for index, maps in enumerate(scenes):
        height, width = maps["depth"].shape
        scene = make_scene(3, index)
        unit = 2 * scene.camera.reach / width
        x = (np.arange(width) + 0.5 - width / 2) * unit
        y = (np.arange(height) + 0.5 - height / 2) * unit
        z = maps["depth"].astype(float)
        # In the label's axes the scene lies at negative z.
        points = np.stack([-x * z, -y[:, None] * z, -z])
        across, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
        normal = np.cross(across, down, axis=0)
        normal /= np.linalg.norm(normal, axis=0)
        n = maps["normals"].astype(float)
        with np.errstate(all="ignore"):
            solid = cast(scene, Rays(scene), (height, width))[1]
        smooth = np.ones((height - 2, width - 2), bool)
        for down_by, right_by in ((0, 1), (2, 1), (1, 0), (1, 2)):
            there = (slice(down_by, height - 2 + down_by), slice(right_by, width - 2 + right_by))
            smooth &= solid[there] == solid[1:-1, 1:-1]
            # No edge of a box between.
            smooth &= (n[:, 1:-1, 1:-1] * n[(slice(None), *there)]).sum(0) > 0.98
        assert smooth.mean() > 0.4
        angles.append(np.degrees(np.arccos(np.clip((normal * n[:, 1:-1, 1:-1]).sum(0), -1, 1)))[smooth])
    angles = np.concatenate(angles)
    assert np.median(angles) < 0.1
    # What differs more are small round things, of which neighbouring pixels are far apart.
    assert (angles < 2).mean() > 0.98
    assert (angles < 12).mean() > 0.999


def test_normals_face_the_camera(scenes):
    for index, maps in enumerate(scenes):
        height, width = maps["depth"].shape
        unit = 2 * make_scene(3, index).camera.reach / width
        x = (np.arange(width) + 0.5 - width / 2) * unit
        y = (np.arange(height) + 0.5 - height / 2) * unit
        towards = x * maps["normals"][0] + y[:, None] * maps["normals"][1] + maps["normals"][2]
        assert (towards > 0).mean() > 0.999


def test_floors_ceilings_and_walls_face_where_they_should(scenes):
    for maps in scenes:
        floor, ceiling = (maps["semseg"] == ROOMS_CLASSES.index(name) for name in ("floor", "ceiling"))
        assert (maps["normals"][1][floor] > 0.8).all()
        assert (maps["normals"][1][ceiling] < -0.8).all()


def test_saliency_is_people_or_else_the_most_prominent_thing(small):
    seen = set()
    for index, maps in enumerate(small):
        scene = make_scene(4, index)
        people = maps["semseg"] == PERSON
        if people.mean() >= 0.005:
            np.testing.assert_array_equal(maps["sal"], people)
            seen.add("people")
            continue
        height, width = people.shape
        x, y = (2 * np.arange(width) + 1) / width - 1, (2 * np.arange(height) + 1) / height - 1
        weight = (1 - y[:, None] ** 2) * (1 - x**2)
        loose = [i for i in np.unique(maps["instance"]) if not scene.fixed[i]]
        best = max(loose, key=lambda i: weight[maps["instance"] == i].sum())
        np.testing.assert_array_equal(maps["sal"], maps["instance"] == best)
        seen.add("thing")
    assert seen == {"people", "thing"}


def test_the_camera_is_in_the_room_and_in_no_solid():
    for index in range(150):
        scene = make_scene(5, index)
        eye = np.array(scene.camera.position)
        assert (np.abs(eye - scene.centre[0]) < scene.half[0] - 0.2).all()
        assert not any(witness.inside(scene, k, eye) for k in range(6, len(scene.kind)))


@pytest.mark.parametrize("factor", [3, 5])
def test_labels_do_not_depend_on_the_size(factor):
    """With an odd factor, pixel centres of the small image are pixel centres of the large one."""
    low, high = (20, 28), (20 * factor, 28 * factor)
    middle = slice(factor // 2, None, factor)
    for index in range(5):
        small, large = (SyntheticRooms(size=size, seed=6).render(index) for size in (low, high))
        for task in ("semseg", "human_parts", "instance"):
            assert (small[task] == large[task][middle, middle]).mean() > 0.998
        close = np.abs(small["depth"] / large["depth"][middle, middle] - 1) < 1e-5
        assert close.mean() > 0.998
