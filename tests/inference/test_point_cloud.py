"""Points from depth: true rooms have true walls, and files open where they should."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import demt
from demt.data.rooms import SyntheticRooms
from demt.inference.point_cloud import back_project, camera_matrix
from demt.inference.prediction import Prediction
from demt.tasks import DATASETS, Task

SIZE = (96, 128)


def rendered(rooms, index):
    maps = rooms.render(index)
    image = Image.fromarray(maps["image"].transpose(1, 2, 0).copy())
    tasks = DATASETS["rooms"]
    return Prediction({name: maps[name] for name in tasks}, tasks=tasks, image=image), maps


@pytest.mark.parametrize("size", [SIZE, (128, 96)])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_true_depth_gives_the_true_planes_of_a_room(size, index):
    """Planes are fitted to the points of the room's faces; faces meet at right angles, normals are known."""
    rooms = SyntheticRooms(size=size, length=3, seed=7)
    prediction, maps = rendered(rooms, index)
    cloud = prediction.to_point_cloud(intrinsics=rooms.intrinsics(index))
    assert len(cloud) == maps["depth"].size
    # The axes of the labels are x left, y up, z towards the camera: those of the cloud, negated.
    true = -maps["normals"]
    found = {}
    for face in range(6):
        rows, columns = cloud.pixels.T
        chosen = maps["instance"][rows, columns] == face
        if chosen.sum() < 200:
            continue
        points = cloud.points[chosen].astype(np.float64)
        normal = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][2]
        normal *= np.sign(-normal @ points.mean(0))
        expected = true[:, rows[chosen][0], columns[chosen][0]]
        assert np.degrees(np.arccos(min(normal @ expected, 1))) < 0.5, face
        found[face] = normal
    assert len(found) >= 2
    for first in found:
        for second in found:
            if first // 2 < second // 2:
                angle = np.degrees(np.arccos(abs(found[first] @ found[second])))
                assert abs(angle - 90) < 0.5, (first, second)


def test_a_field_of_view_is_that_of_the_matrix():
    rooms = SyntheticRooms(size=SIZE, length=1, seed=3)
    prediction, _ = rendered(rooms, 0)
    matrix = rooms.intrinsics(0)
    fov = 2 * np.degrees(np.arctan(SIZE[1] / 2 / matrix[0, 0]))
    np.testing.assert_allclose(camera_matrix(SIZE, fov=float(fov)), matrix)
    four = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
    clouds = [prediction.to_point_cloud(**how) for how in ({"fov": float(fov)}, {"intrinsics": four})]
    np.testing.assert_allclose(clouds[0].points, clouds[1].points, rtol=1e-6)


def test_points_are_projected_back_to_their_pixels():
    """By the pinhole model written out, with skew; what has no depth has no point."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 5, (6, 8))
    depth[0, 0], depth[1, 2], depth[3, 3], depth[5, 7] = np.nan, 0, -1, np.inf
    colours = rng.integers(0, 256, (6, 8, 3), np.uint8)
    matrix = np.array([[7.0, 0.3, 3.2], [0, 6.5, 2.9], [0, 0, 1]])
    cloud = back_project(depth, colours, intrinsics=matrix)
    assert len(cloud) == 48 - 4
    image = cloud.points.astype(float) @ matrix.T
    np.testing.assert_allclose(image[:, :2] / image[:, 2:], cloud.pixels[:, ::-1], atol=1e-5)
    rows, columns = cloud.pixels.T
    np.testing.assert_allclose(cloud.points[:, 2], depth[rows, columns], rtol=1e-6)
    assert (cloud.colours == colours[rows, columns]).all()


def test_files_open_in_trimesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    prediction, maps = rendered(SyntheticRooms(size=(24, 32), length=1), 0)
    cloud = prediction.to_point_cloud(fov=60)
    cloud.save(tmp_path / "room.ply")
    ply = trimesh.load(tmp_path / "room.ply")
    np.testing.assert_allclose(ply.vertices, cloud.points, rtol=1e-6)
    assert (ply.colors[:, :3] == maps["image"].transpose(1, 2, 0).reshape(-1, 3)).all()
    classes = prediction.to_point_cloud(fov=60, colour="semseg")
    classes.save(tmp_path / "room.GLB")
    (glb,) = trimesh.load(tmp_path / "room.GLB", file_type="glb").geometry.values()
    # y up and z to the viewer: the camera's axes turned by half a turn about x.
    np.testing.assert_allclose(glb.vertices, cloud.points * [1, -1, -1], rtol=1e-6)
    palette = np.array(DATASETS["rooms"]["semseg"].palette)
    # Those of glTF are amounts of light: what a viewer makes sRGB of, here within the half step of 8 bits.
    light = glb.colors[:, :3] / 255
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    slope = np.where(light <= 0.0031308, 12.92, 1.055 / 2.4 * np.maximum(light, 1 / 255) ** (1 / 2.4 - 1))
    assert (abs(255 * shown - palette[maps["semseg"].ravel()]) <= 0.6 * slope + 1).all()
    np.testing.assert_allclose(cloud.to_trimesh().vertices, cloud.points, rtol=1e-6)
    assert {file.name for file in tmp_path.iterdir()} == {"room.ply", "room.GLB"}
    with pytest.raises(ValueError, match=r"end in \.ply or \.glb, got"):
        cloud.save(tmp_path / "room.obj")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsics": np.eye(4)}, r"`intrinsics` to be a matrix \(3, 3\).* got the shape \(4, 4\)"),
        ({"intrinsics": [1, 2, 3]}, r"got the shape \(3,\)"),
        ({"intrinsics": np.ones((1, 3, 3))}, r"got the shape \(1, 3, 3\)"),
        ({"intrinsics": "wide"}, "of numbers, got 'wide'"),
        ({"intrinsics": [[1, 2], [3]]}, "of numbers, got"),
        ({"intrinsics": np.zeros((3, 3))}, "with focal lengths above 0"),
        ({"intrinsics": np.ones((3, 3))}, "with focal lengths above 0"),
        ({"intrinsics": (np.nan, 1, 1, 1)}, "with focal lengths above 0"),
        ({}, "either `intrinsics` or `fov`"),
        ({"fov": 60, "intrinsics": np.eye(3)}, "either `intrinsics` or `fov`"),
        ({"fov": 180}, "`fov` to be degrees between 0 and 180, got 180"),
        ({"fov": 60, "colour": "height"}, "`colour` to be 'image' or one of"),
        ({"fov": 60, "depth": "height"}, "`depth` to be one of"),
        ({"fov": 60, "depth": "normals"}, "to name a task of depth, got 'normals'"),
        ({"fov": 60, "depth": "semseg"}, "to name a task of depth, got 'semseg'"),
    ],
)
def test_what_is_no_camera(change, message):
    prediction, _ = rendered(SyntheticRooms(size=(24, 32), length=1), 0)
    with pytest.raises(ValueError, match=message) as error:
        prediction.to_point_cloud(**change)
    assert "\n" not in str(error.value)


def test_a_disparity_is_no_depth():
    torch.manual_seed(0)
    task = Task(name="depth", channels=1, metric="depth", unit="px")
    prediction = demt.predict(demt.create_model("demt_nano", tasks={"depth": task}), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="'depth' is a disparity in pixels"):
        prediction.to_point_cloud(fov=60)


def test_without_trimesh(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    prediction, _ = rendered(SyntheticRooms(size=(24, 32), length=1), 0)
    with pytest.raises(ImportError, match=r"pip install 'demt\[3d\]'"):
        prediction.to_point_cloud(fov=60).save(tmp_path / "room.ply")
    assert not list(tmp_path.iterdir())
