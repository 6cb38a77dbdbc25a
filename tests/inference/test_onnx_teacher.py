"""ONNX teachers: small graphs whose outputs are known, and one clear line for each way to describe them wrongly."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from demt.cli import app
from demt.data import MultiTaskFolder
from demt.inference.onnx_description import Description, read_description
from demt.inference.onnx_teacher import onnx_teacher
from demt.inference.pseudo_label import pseudo_label
from demt.inference.teachers import TeacherError

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="needs onnx"
)


def write_onnx(path, *, shape=(1, 3, "h", "w"), nodes=(("Identity", "x", "y"),), kind="FLOAT"):
    """A graph from ``x`` to the results of all nodes."""
    import onnx
    from onnx import TensorProto, helper

    made = [helper.make_node(node[0], [node[1]], [node[2]], **dict(node[3:])) for node in nodes]
    dtype = getattr(TensorProto, kind)
    outputs = [helper.make_tensor_value_info(node[2], dtype, None) for node in nodes]
    graph = helper.make_graph(made, "g", [helper.make_tensor_value_info("x", dtype, shape)], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def describe(path, **values):
    path.with_suffix(".yaml").write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def file(tmp_path):
    write_onnx(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (10, 14, 3)).astype(np.uint8)


def test_the_input_is_normalised_as_described(file, pixels):
    """The graph gives its input, read as classes' logits and as normals with signs."""
    about = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 1], "divisor": 128}
    describe(file, **about, channels="bgr", outputs={"normals": {"signs": [1, -1, 1]}})
    given = onnx_teacher(file).function(pixels)["normals"]
    blue_first = pixels[:, :, ::-1].transpose(2, 0, 1) / 128
    expected = (blue_first - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.5, 0.25, 1])[:, None, None]
    assert np.allclose(given, expected * np.array([1, -1, 1])[:, None, None], atol=1e-5)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"scaling": "none"}, lambda x: x[1] / 255),
        ({"scaling": "sigmoid"}, lambda x: 1 / (1 + np.exp(-x[1] / 255))),
        ({"scaling": "softmax"}, lambda x: np.exp(x[1] / 255) / np.exp(x / 255).sum(0)),
        ({"scaling": "minmax"}, lambda x: (x[1] - x[1].min()) / (x[1].max() - x[1].min())),
        ({"scaling": "0..255"}, lambda x: x[1] / 255 / 255),
    ],
)
def test_scaling_of_probabilities(file, pixels, output, expected):
    describe(file, outputs={"sal": {"output": "y", "channel": 1, **output}})
    given = onnx_teacher(file).function(pixels)["sal"]
    assert np.allclose(given, expected(pixels.transpose(2, 0, 1).astype(np.float64)), atol=1e-5)


def test_class_maps_are_probabilities_or_ids(file, tmp_path, pixels):
    describe(file, outputs={"semseg": {"scaling": "softmax", "channels": 3}})
    ids, confidence = onnx_teacher(file).function(pixels)["semseg"]
    soft = torch.from_numpy(pixels / 255.0).softmax(2).numpy()
    assert np.array_equal(ids, pixels.argmax(2))
    assert np.allclose(confidence, soft.max(2), atol=1e-5)
    nodes = [("ArgMax", "x", "ids", ("axis", 1), ("keepdims", 0))]
    write_onnx(tmp_path / "ids.onnx", nodes=nodes, shape=(1, 3, 10, 14))
    import onnx

    model = onnx.load(tmp_path / "ids.onnx")
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, tmp_path / "ids.onnx")
    describe(tmp_path / "ids.onnx", outputs={"semseg": {"channels": 3}})
    assert np.array_equal(onnx_teacher(tmp_path / "ids.onnx").function(pixels)["semseg"], pixels.argmax(2))


def test_sizes(tmp_path, pixels):
    """A fixed size is taken from the file; a longer side keeps the shape; maps come back at the picture's size."""
    write_onnx(tmp_path / "fixed.onnx", shape=(1, 3, 6, 8))
    teacher = onnx_teacher(describe(tmp_path / "fixed.onnx", outputs={"depth": {"channel": 0, "factor": 2}}))
    small = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), (6, 8), mode="bilinear", antialias=True
    )
    expected = torch.nn.functional.interpolate(small / 255, (10, 14), mode="bilinear")[0, 0] * 2
    assert np.allclose(teacher.function(pixels)["depth"], expected, atol=1e-5)

    seen = []
    write_onnx(tmp_path / "free.onnx")
    teacher = onnx_teacher(describe(tmp_path / "free.onnx", size=33, multiple=8, outputs={"sal": {"channel": 0}}))
    run = teacher.function.session.run

    class Session:
        def run(self, names, inputs):
            seen.append(inputs["x"].shape)
            return run(names, inputs)

    teacher.function.session = Session()
    assert teacher.function(pixels)["sal"].shape == (10, 14)
    assert seen == [(1, 3, 24, 32)]


def test_nhwc_and_uint8(tmp_path, pixels):
    write_onnx(tmp_path / "last.onnx", shape=(1, "h", "w", 3), kind="UINT8")
    describe(tmp_path / "last.onnx", layout="nhwc", divisor=1, outputs={"edge": {"channel": 2, "scaling": "0..255"}})
    given = onnx_teacher(tmp_path / "last.onnx").function(pixels)["edge"]
    assert np.allclose(given, pixels[:, :, 2] / 255, atol=1e-6)


def test_own_tasks_and_json(file):
    values = {
        "outputs": {
            "crack": {"channels": 1, "kind": "boundary", "channel": 0},
            "height": {"channels": 3, "kind": "values"},
        }
    }
    file.with_suffix(".json").write_text(json.dumps(values))
    tasks = onnx_teacher(file).tasks
    assert {name: (task.channels, task.activation) for name, task in tasks.items()} == {
        "crack": (1, "sigmoid"),
        "height": (3, "identity"),
    }


def test_command_labels_a_folder(file, tmp_path, pixels):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(pixels).save(tmp_path / "pictures/a.png")
    describe(file, outputs={"edge": {"channel": 0}})
    command = ["pseudo-label", file, tmp_path / "pictures", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(each) for each in command])
    assert result.exit_code == 0, result.output
    red = pixels[:, :, 0] / np.float32(255)
    stored = MultiTaskFolder(tmp_path / "out", "edge", encodings="edge=values")[0]["edge"][0]
    assert np.array_equal(stored, np.where(red < 0.35, 0, np.where(red > 0.6, 1, 255)))
    result = CliRunner().invoke(app, [*map(str, command), "--device", "cuda"])
    assert (result.exit_code, "ONNX teachers run on the CPU" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "expected it to be a mapping"),
        ({}, "expected `outputs`, a mapping such as"),
        ({"outputs": {"sal": {"scale": 1}}}, "unknown name 'scale' in outputs.sal; known are"),
        ({"outputs": {"sal": {}}, "sise": 3}, "unknown name 'sise'; known are"),
        ({"outputs": {"sal": {"scaling": "tanh"}}}, "outputs.sal: expected `scaling` to be one of"),
        ({"outputs": {"sky": {}}}, "unknown task 'sky'"),
        ({"outputs": {"semseg": {}}}, "number of classes of 'semseg'"),
        ({"outputs": {"sal": {"channel": "red"}}}, "`channel` to be a number from 0, got 'red'"),
        ({"outputs": {"sal": {}}, "size": [3]}, r"`size` as \[height, width\] or one number, got \(3,\)"),
        ({"outputs": {"sal": {}}, "mean": 0.5}, "`mean` to be 3 numbers, got 0.5"),
        ({"outputs": {"sal": {}}, "std": [1, 1, 0]}, "`divisor` and `std` to be other than 0"),
        ({"outputs": {"sal": {}}, "channels": "gbr"}, "`channels` to be one of"),
        ({"outputs": {"sal": {}}, "divisor": "x"}, "`divisor` to be a number, got 'x'"),
    ],
)
def test_broken_descriptions(file, values, message):
    file.with_suffix(".yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message) as caught:
        onnx_teacher(file)
    assert "net.yaml' describes no ONNX teacher" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No description of .*write 'net.yaml' beside it"):
        onnx_teacher(file)
    file.with_suffix(".yaml").write_text("outputs: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        onnx_teacher(file)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    describe(tmp_path / "bad.onnx", outputs={"sal": None})
    with pytest.raises(ValueError, match="cannot be read as an ONNX file"):
        onnx_teacher(tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"outputs": {"sal": {}}},
            r"'sal' has the shape \(1, 3, 64, 64\), expected \(1, 1, h, w\); say which",
        ),
        ({"outputs": {"semseg": {"channels": 5}}}, r"expected \(1, 5, h, w\); is `channels` 5 right"),
        ({"outputs": {"sal": {"output": 4}}}, r"no output 4 for task 'sal'; it has \['y'\]"),
        ({"outputs": {"sal": {"channel": 9}}}, r"has the shape \(1, 3, 64, 64\)"),
        ({"outputs": {"sal": {"channel": 0}}, "divisor": 1}, "not probabilities; declare its `scaling`"),
        ({"outputs": {"sal": {"channel": 0}}, "layout": "nhwc"}, "cannot run on an input"),
    ],
)
def test_descriptions_that_do_not_fit_write_nothing(file, tmp_path, values, message):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    with pytest.raises(TeacherError, match=message) as caught:
        pseudo_label(describe(file, **values), pictures, tmp_path / "never")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_a_fixed_size_that_differs(tmp_path):
    write_onnx(tmp_path / "fixed.onnx", shape=(1, 3, 6, 8))
    with pytest.raises(TeacherError, match=r"takes pictures of \(6, 8\), but `size` is \(8, 6\)"):
        onnx_teacher(describe(tmp_path / "fixed.onnx", size=[8, 6], outputs={"normals": {}}))


def test_without_onnxruntime(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'demt\[onnx\]'"):
        onnx_teacher(describe(file, outputs={"sal": {"channel": 0}}))


def test_descriptions_have_defaults(file):
    about = read_description(describe(file, outputs={"sal": None}).with_suffix(".yaml"))
    assert about == Description(outputs=about.outputs)
    assert (about.divisor, about.mean, about.channels, about.size) == (255, (0, 0, 0), "rgb", None)
