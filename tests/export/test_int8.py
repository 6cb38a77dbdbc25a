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
from demt.export import calibration, choose, int8
from demt.export.agreement import difference
from demt.export.biases import input_means, rounding, with_corrected_biases
from demt.export.calibration import parse_bound
from demt.export.capture import ExportError
from demt.export.int8 import export_int8
from demt.export.quantize import QuantizableFile
from demt.tasks import Task
from tests.conftest import needs_export

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="needs onnx"
)
TASKS = {"semseg": 5, "normals": 3, "depth": 1}


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    monkeypatch.setattr(calibration, "cpu_has_int8", lambda: True)


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

    monkeypatch.setattr(choose, "GROUPS", 3)
    folder, file = pictures(tmp_path / "pictures", 8), tmp_path / "model.onnx"
    written = export_int8(model, file, folder, bound=1.0)
    graph = onnx.load(file).graph
    assert written.size == file.stat().st_size < 0.5 * written.float_size
    assert all(written.differences[name] <= 1 for name in TASKS)
    assert written.pictures == (4, 4)
    assert written.layers[0] + written.coordinates + 2 == written.layers[1]  # and two stacks of a matrix a head

    # The layers that give offsets, by their weights' shape: two groups of 9 maps.
    dense = {each.name: tuple(each.dims) for each in graph.initializer}
    shapes = [dense[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in dense]
    assert written.coordinates == len(TASKS)
    assert shapes == [(64, 9, 3, 3)] * len(TASKS)
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

    def measure(layers):
        return {"depth": sum(damage[name] for name in layers), "sal": 0.0}

    layers = choose.choose(list(damage), measure, {"depth": 0.01, "sal": 0.01})
    assert sorted(layers) == ["b", "c", "e"]
    assert choose.choose(list(damage), measure, {"depth": 1, "sal": 1}) == list(damage)
    with pytest.raises(ExportError, match=r"with all of them depth differs from float32 by 25.7%, more than 0.1%"):
        choose.choose(list(damage), measure, {"depth": 0.0005, "sal": 1})


class FakeFile:
    """A file that differs by as much as it has layers in 8 bits, and more on the pictures that did not choose."""

    def __init__(self, path, images):
        self.layers, self.total, self.coordinates, self.contents = ["a", "b"], 3, {"c"}, b""

    def quantized(self, layers):
        return b"x" * len(layers)


class FakeJudge:
    made = 0

    def __init__(self, tasks, contents, images, predictions):
        FakeJudge.made += 1
        self.tasks, self.factor = tasks, 0.01 if FakeJudge.made % 2 else 0.015

    def measure(self, contents):
        return dict.fromkeys(self.tasks, self.factor * len(contents))


def test_pictures_that_did_not_choose_must_keep_the_bounds_too(model, tmp_path, monkeypatch):
    for name, fake in (("QuantizableFile", FakeFile), ("Judge", FakeJudge)):
        monkeypatch.setattr(int8, name, fake)
    monkeypatch.setattr(int8, "export", lambda model, path, **_: path.write_bytes(b"float32"))
    folder, file = pictures(tmp_path / "pictures", 8), tmp_path / "a.onnx"
    with pytest.raises(ExportError, match=r"did not choose the layers \w+ differs from float32 by 3.0%, more than 2"):
        export_int8(model, file, folder, bound=0.025)
    assert not file.exists()
    written = export_int8(model, file, folder, bound=0.03)
    assert (written.layers, written.differences["depth"], written.size) == ((2, 3), 0.03, 2)


def small_network(path):
    """Clip(Conv(images)), pooled to two outputs by a Gemm; without the Clip values reach far beyond it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    dice = np.random.default_rng(0)
    arrays = {
        "w": dice.normal(size=(6, 1, 3, 3)).astype(np.float32),
        "b": dice.normal(size=6).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(1),
        "v": dice.normal(size=(2, 6)).astype(np.float32),
        "c": np.zeros(2, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["conv"], group=3, pads=[1] * 4),
        helper.make_node("Clip", ["conv", "low", "high"], ["clip"]),
        helper.make_node("GlobalAveragePool", ["clip"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["depth"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["b", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return arrays


@needs_onnx
def test_what_a_convolution_cuts_off_takes_no_part_in_its_range(tmp_path):
    """Its output has 256 steps from 0 to 1, and no node cuts it off again."""
    import onnx
    from onnx import numpy_helper

    small_network(tmp_path / "a.onnx")
    images = [20 * np.random.default_rng(n).normal(size=(1, 3, 9, 8)).astype(np.float32) for n in range(3)]
    file = QuantizableFile(tmp_path / "a.onnx", images)
    graph = onnx.load_from_string(file.quantized(file.layers)).graph
    assert "Clip" not in {node.op_type for node in graph.node}
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    (scale,) = (arrays[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "clip")
    assert scale == pytest.approx(1 / 255)
    # What is not chosen computes as before, with weights of 16 bits.
    half = onnx.load_from_string(file.quantized(file.layers[:1])).graph
    stored = [e for e in half.initializer if e.name == "v_float16"]
    assert [node.op_type for node in half.node if "v_float16" in node.input] == ["Cast"]
    np.testing.assert_allclose(numpy_helper.to_array(stored[0]), small_network(tmp_path / "b.onnx")["v"], rtol=1e-3)


@needs_onnx
def test_biases_keep_the_mean_output_of_rounded_weights(tmp_path):
    """Torch computes each layer with weights in 8 bits on what went into it, and finds the mean of float32 again."""
    import onnx
    from onnx import numpy_helper

    arrays = small_network(tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx")
    for number, node in enumerate(proto.graph.node):
        node.name = f"node_{number}"
    # Constant images: at the border alone a kernel sees less than the mean.
    images = [
        np.full((1, 3, 40, 40), value, np.float32) * np.float32([1, 2, -1])[:, None, None] for value in (0.3, 0.9)
    ]
    means = input_means(proto, ["node_0", "node_4"], images)
    np.testing.assert_allclose(means["node_0"], [0.6, 1.2, -0.6], rtol=1e-5)
    found = with_corrected_biases(proto, {"node_0"}, means).graph
    constants = {each.name: numpy_helper.to_array(each) for each in found.initializer}
    bias = torch.from_numpy(constants[found.node[0].input[2]].copy())
    rounded = torch.from_numpy((arrays["w"] + rounding(arrays["w"])).astype(np.float32))
    step = np.abs(arrays["w"]).max((1, 2, 3)) / 127
    assert np.abs(rounding(arrays["w"])).max() <= step.max() / 2 * 1.001
    batch = torch.from_numpy(np.concatenate(images))
    expected = torch.nn.functional.conv2d(batch, *map(torch.from_numpy, (arrays["w"], arrays["b"])), groups=3)
    actual, without = (
        torch.nn.functional.conv2d(batch, rounded, each, groups=3) for each in (bias, torch.from_numpy(arrays["b"]))
    )
    torch.testing.assert_close(actual.mean((0, 2, 3)), expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert (without - expected).mean((0, 2, 3)).abs().max() > 1e-3
    assert found.node[4].input[2] == "c"


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
    monkeypatch.setattr(calibration, "cpu_has_int8", lambda: False)
    with pytest.raises(ValueError, match="no instructions for products in 8 bits"):
        export_int8(model, tmp_path / "a.onnx", folder)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pictures"]


def test_bounds_of_the_command_line():
    assert parse_bound("2%") == 0.02
    assert parse_bound("0.5") == 0.5
    assert parse_bound("depth=3%, semseg=0.02") == {"depth": 0.03, "semseg": 0.02}
