from pathlib import Path

import numpy as np
import pytest
import torch

from demt.data import ENCODINGS, Boundary, DataError, Depth, Encoding, Label, SurfaceNormals
from demt.tasks import Task, resolve_tasks

TASKS = resolve_tasks({"semseg": 5, "sal": 2, "depth": 1, "normals": 3, "edge": 1})
FILE = Path("some/file.png")


def decode(encoding, stored, task):
    encoding = ENCODINGS[encoding] if isinstance(encoding, str) else encoding
    return encoding.decode(np.asarray(stored), TASKS[task] if isinstance(task, str) else task, FILE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float32])
def test_classes(dtype):
    stored = np.array([[0, 4], [255, 1]], dtype)
    label = decode("classes", stored, "semseg")
    assert type(label) is Label
    assert (label.dtype, label.tolist()) == (torch.uint8, [[[0, 4], [255, 1]]])
    assert decode("void_first", stored, "semseg").tolist() == [[[255, 3], [255, 0]]]
    with pytest.raises(DataError, match=r"some/file.png.*stored value 5 is not a class of task 'semseg', which has 5"):
        decode("classes", np.array([[0, 5]], dtype), "semseg")


def test_classes_of_other_numbers():
    assert decode(Encoding(invalid=(-1,)), [[-1, 2]], "semseg").tolist() == [[[255, 2]]]
    assert decode(Encoding(ids={7: 0, 9: 3}, invalid=(0,)), [[7, 9, 0]], "semseg").tolist() == [[[0, 3, 255]]]
    assert decode("mask", np.array([[127, 128]], np.uint8), "sal").tolist() == [[[0, 1]]]
    for stored in ([[-1, 2]], [[0.5, 1]], [[70000, 0]], [[np.nan, 1]], [[1e30, 0]]):
        with pytest.raises(DataError, match=r"some/file\.png"):
            decode("classes", stored, "semseg")
    with pytest.raises(DataError, match="stored value 8 is not a class"):
        decode(Encoding(ids={7: 0}), [[7, 8]], "semseg")


def test_colours():
    encoding = Encoding(colors={(255, 0, 0): 1, (0, 0, 0): 255, (0, 255, 1): 4})
    stored = np.array([[[255, 0, 0], [0, 0, 0]], [[0, 255, 1], [255, 0, 0]]], np.uint8)
    assert decode(encoding, stored, "semseg").tolist() == [[[1, 255], [4, 1]]]
    stored[1, 1] = (255, 0, 1)
    with pytest.raises(DataError, match=r"colour \(255, 0, 1\) is not one of the declared"):
        decode(encoding, stored, "semseg")
    with pytest.raises(DataError, match="declare the `colors` of its classes"):
        decode("classes", stored, "semseg")


def test_depth():
    label = decode("millimetres", np.array([[0, 1500], [65535, 1]], np.uint16), "depth")
    assert type(label) is Depth
    assert label.flatten().tolist() == pytest.approx([255, 1.5, 65.535, 0.001])
    assert decode("metres", [[0.0, np.nan, 2.5]], "depth").tolist() == [[[255, 255, 2.5]]]
    for bad in ([[np.nan]], [[-1.0]], [[np.inf]]):
        with pytest.raises(DataError, match=r"of task 'depth' found; expected finite values in \[0"):
            decode("values", bad, "depth")


def test_normals():
    vectors = np.array([[[0, 0.6, -0.8], [0, 0, 0], [255, 255, 255]]], np.float32)
    label = decode(Encoding(signs=(1, -1, 1)), vectors, "normals")
    assert type(label) is SurfaceNormals
    assert label[:, 0, 0].tolist() == pytest.approx([0, -0.6, -0.8])
    assert (label[:, 0, 1:] == 255).all()
    colors = np.array([[[255, 0, 128], [128, 128, 128]]], np.uint8)
    shown = decode(Encoding(divisor=127.5, offset=-1, invalid=(128,)), colors, "normals")
    assert shown[:, 0].T.tolist() == [pytest.approx([1, -1, 1 / 255], rel=1e-4), [255, 255, 255]]
    with pytest.raises(
        DataError, match=r"label 2 of task 'normals' found; expected finite values in \[-1.001, 1.001\]"
    ):
        decode("values", np.full((1, 1, 3), 2.0), "normals")
    with pytest.raises(DataError, match=r"expected labels \(H, W, 3\) of task 'normals', got \(2, 2\)"):
        decode("values", np.zeros((2, 2)), "normals")


def test_boundaries_and_own_tasks():
    assert type(decode("grey", np.array([[0, 255]], np.uint8), "edge")) is Boundary
    assert decode("values", [[0.0, 1.0, 255.0]], "edge").tolist() == [[[0, 1, 255]]]
    with pytest.raises(DataError, match="label 3 of task 'edge'"):
        decode("values", [[0.0, 3.0, 255.0]], "edge")
    flow = Task(name="flow", channels=2)
    assert decode("values", np.ones((4, 5, 2)), flow).shape == (2, 4, 5)
    assert type(decode("values", np.ones((4, 5, 2)), flow)) is Label
    heights = Task(name="height", channels=1)
    assert type(decode(Encoding(kind="depth"), [[1.0]], heights)) is Depth
    with pytest.raises(ValueError, match="`kind`"):
        Encoding(kind="heights")
    with pytest.raises(ValueError, match="`divisor`"):
        Encoding(divisor=0)
