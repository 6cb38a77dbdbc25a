"""Models in 8 bits: tasks keep their bounds, coordinates stay float32, and what does not fit leaves no file."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.export import int8
from demt.export.agreement import difference
from demt.export.capture import ExportError
from demt.export.int8 import export_int8, parse_bound
from demt.tasks import Task
from tests.conftest import needs_export

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="needs onnx"
)
TASKS = {"semseg": 5, "normals": 3, "depth": 1}


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    monkeypatch.setattr(int8, "cpu_has_int8", lambda: True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return demt.create_model("demt", tasks=TASKS, backbone="resnet10t", width=32, heads=2, depth=1).eval()


def pictures(folder, count):
    folder.mkdir()
    dice = np.random.default_rng(0)
    for number in range(count):
        noise = Image.fromarray(dice.integers(0, 256, (9, 12, 3), np.uint8))
        noise.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@needs_export
@needs_onnx
def test_bounds_hold_or_nothing_is_written(model, tmp_path, monkeypatch):
    import onnx

    monkeypatch.setattr(int8, "GROUPS", 3)
    folder, file = pictures(tmp_path / "pictures", 8), tmp_path / "model.onnx"
    written = export_int8(model, file, folder, bound=1.0)
    graph = onnx.load(file).graph
    assert written.size == file.stat().st_size < 0.5 * written.float_size
    assert written.pictures == (4, 4)
    assert written.layers[0] + written.coordinates == written.layers[1]

    # The layers that make coordinates, by their weights' shapes: 18 maps, then offsets in two groups of 9.
    dense = {each.name: tuple(each.dims) for each in graph.initializer}
    shapes = [dense[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in dense]
    assert written.coordinates == 2 * len(TASKS)
    assert sorted(shapes) == sorted([(18, 32, 3, 3), (64, 9, 3, 3)] * len(TASKS))
    quantized = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0].endswith("_quantized")]
    assert len(quantized) >= written.layers[0]

    file.write_bytes(b"older")
    with pytest.raises(ExportError, match=r"No layers can be in 8 bits within the bound: .* nothing was written"):
        export_int8(model, file, folder, bound=1e-9)
    assert file.read_bytes() == b"older"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "pictures"]


def test_the_groups_that_hurt_least_are_taken_together():
    """Each layer adds a damage of its own; the search finds what fits below the bound, as trying all would."""
    damage = {"a": 0.05, "b": 0.001, "c": 0.004, "d": 0.2, "e": 0.002}
    search = object.__new__(int8._Search)
    search.layers = list(damage)
    search.measure = lambda layers: {"depth": sum(damage[name] for name in layers), "sal": 0.0}
    bounds = {"depth": 0.01, "sal": 0.01}
    layers, found = search.within(bounds, search.measure(search.layers))
    assert sorted(layers) == ["b", "c", "e"]
    assert found["depth"] == pytest.approx(0.007)
    assert search.within({"depth": 1, "sal": 1}, search.measure(search.layers))[0] == list(damage)
    with pytest.raises(ExportError, match=r"with all of them depth differs from float32 by 25.7%, more than 0.1%"):
        search.within({"depth": 0.0005, "sal": 1}, search.measure(search.layers))


def test_measures():
    dice = np.random.default_rng(0)
    one, other = (torch.from_numpy(dice.integers(0, 3, (2, 1, 5, 7))) for _ in range(2))
    task = Task(name="semseg", channels=4, activation="argmax")
    expected = 1 - jaccard_score(one.flatten(), other.flatten(), average="macro")
    assert difference(task, list(zip(one, other))) == pytest.approx(expected)
    masks = [(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]]))]
    assert difference(Task(name="sal", channels=2, activation="foreground"), masks) == pytest.approx(0.5)
    x, y = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    x[:, 0], y[:, :2] = 1, 0.5**0.5
    assert difference(Task(name="normals", channels=3, activation="unit"), [(x, y)]) == pytest.approx(0.5)
    values = [(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))]
    assert difference(Task(name="depth", channels=1), values) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (None, [], "No folder of calibration pictures at"),
        (0, [], "at least 8 calibration pictures in .* got 0"),
        (7, [], "at least 8 calibration pictures in .* got 7"),
        (8, ["--bound", "edge=2%"], "The bound names the task 'edge', and the model has semseg, normals, depth"),
        (8, ["--bound", "two"], "Expected --bound as 2% or as TASK=2%,TASK=3%, got 'two'"),
        (8, ["--bound", "0"], "Expected `bound` of semseg to be a fraction above 0, at most 1, got 0.0"),
        (8, ["--format", "pt2"], "Expected --format onnx with --int8, got pt2"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(count, options, message, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    if count is not None:
        pictures(tmp_path / "pictures", count)
    before = sorted(tmp_path.iterdir())
    arguments = ["export", str(tmp_path / "model"), str(tmp_path / "a.onnx"), "--int8"]
    result = CliRunner().invoke(app, [*arguments, "--calibrate", str(tmp_path / "pictures"), *options])
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert re.search(message, result.stderr)
    assert sorted(tmp_path.iterdir()) == before


def test_an_unreadable_picture_and_a_small_processor(model, tmp_path, monkeypatch):
    folder = pictures(tmp_path / "pictures", 8)
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"3\.png"):
        export_int8(model, tmp_path / "a.onnx", folder)
    monkeypatch.setattr(int8, "cpu_has_int8", lambda: False)
    with pytest.raises(ValueError, match="no instructions for products in 8 bits"):
        export_int8(model, tmp_path / "a.onnx", folder)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pictures"]


def test_bounds_of_the_command_line():
    assert parse_bound("2%") == 0.02
    assert parse_bound("0.5") == 0.5
    assert parse_bound("depth=3%, semseg=0.02") == {"depth": 0.03, "semseg": 0.02}
