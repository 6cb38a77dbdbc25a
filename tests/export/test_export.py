"""Files that compute what the model does, at any size and in a process without this package."""

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.export import formats as export_formats
from demt.export.capture import Outputs, capture
from demt.export.write import ExportError, export
from demt.ops import deform
from tests.conftest import deviation, needs_export

TASKS = {"semseg": 5, "sal": 2, "normals": 3, "edge": 1}
#: Quick to capture.
SMALL = {"backbone": "resnet10t", "width": 32, "heads": 2}
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="needs onnx"
)
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return demt.create_model("demt", tasks=TASKS, **SMALL).eval()


def outputs(path, images):
    """What onnxruntime makes of a file, by task."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"images": images.numpy()}))))


def assert_equal_at_other_sizes(path, model):
    """A file of a model agrees with it, at sizes and batches that nothing was captured or compared with."""
    for size in ((2, 3, 64, 96), (1, 3, 33, 75), (1, 3, 61, 200)):
        images = torch.randn(size)
        with torch.no_grad():
            expected = model(images)
        for name, found in outputs(path, images).items():
            assert deviation(found, expected[name]) < 1e-3


@needs_export
@needs_onnx
def test_command_writes_onnx(model, tmp_path):
    """Predictions of a saved model, at sizes and batches that nothing was captured or compared with."""
    import onnx

    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model.onnx"
    result = CliRunner().invoke(app, ["export", str(tmp_path / "model"), str(file), "--predictions"])
    assert result.exit_code == 0, result.output
    assert "Largest difference from the model" in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "model.onnx"]

    loaded = onnx.load(file)
    onnx.checker.check_model(loaded, full_check=True)
    assert [(each.domain, each.version) for each in loaded.opset_import] == [("", 18)]
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*loaded.graph.input, *loaded.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "semseg": ["batch", "height", "width"],
        "sal": ["batch", "height", "width"],
        "normals": ["batch", 3, "height", "width"],
        "edge": ["batch", "height", "width"],
    }
    assert list(shapes)[1:] == list(model.tasks)
    constants = {value.name for value in loaded.graph.initializer}
    assert all(node.input[1] in constants for node in loaded.graph.node if node.op_type == "Conv")
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    assert json.loads(metadata["mean"]) == list(model.pretrained_cfg.mean)
    assert json.loads(metadata["std"]) == list(model.pretrained_cfg.std)
    assert json.loads(metadata["input_size"]) == [3, 512, 512]
    assert metadata["outputs"] == "predictions"
    assert [task["activation"] for task in json.loads(metadata["tasks"])] == ["argmax", "foreground", "unit", "sigmoid"]
    assert str(tmp_path.parents[2]).encode() not in file.read_bytes()

    for size in ((2, 3, 128, 160), (1, 3, 33, 75), (4, 3, 61, 200)):
        images = torch.randn(size)
        with torch.no_grad():
            logits = model(images)
        for name, found in outputs(file, images).items():
            if name == "semseg":
                worse = logits[name].amax(1) - logits[name].gather(1, found[:, None])[:, 0]
                assert worse.max() < 1e-3 * logits[name].std()
            else:
                assert deviation(found, model.tasks[name].predict(logits[name])) < 1e-3

    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(file, tmp_path / "int8.onnx", weight_type=QuantType.QUInt8)
    images = torch.randn(1, 3, 61, 75)
    assert all(value.isfinite().all() for value in outputs(tmp_path / "int8.onnx", images).values())


FRESH = """
import json, sys, torch
extra = {"demt.json": ""}
with open("model.pt2", "rb") as file:
    module = torch.export.load(file, extra_files=extra).module()
images = torch.load("images.pt")
torch.save([module(each) for each in images], "outputs.pt")
print(json.loads(extra["demt.json"])["outputs"], "demt" in sys.modules)
"""


def runs_in_a_process_of_its_own(script, model, images, tmp_path):
    """The script runs the exported file of `tmp_path` on images and gives the model's outputs."""
    torch.save(images, tmp_path / "images.pt")
    # Where this package is not on the path either.
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["logits", "False"]
    for each, found in zip(images, torch.load(tmp_path / "outputs.pt")):
        with torch.no_grad():
            expected = model(each)
        assert list(found) == list(expected)
        assert all(deviation(found[name], expected[name]) < 1e-3 for name in expected)


@needs_export
def test_program_runs_in_a_process_without_this_package(tmp_path):
    model = demt.create_model("degmix", tasks={"depth": 1}, depth=1, **SMALL)
    written = export(model, tmp_path / "model.pt2")
    assert model.training
    model.eval()
    assert written.format == "pt2"
    assert written.error < 1e-3
    images = [torch.randn(size) for size in ((2, 3, 128, 160), (1, 3, 33, 75), (1, 3, 61, 224))]
    runs_in_a_process_of_its_own(FRESH, model, images, tmp_path)
    assert b"capture.py" not in (tmp_path / "model.pt2").read_bytes()


@pytest.fixture
def fake(model, monkeypatch):
    """Everything but the slow parts: a file of one byte, run by a function that the test chooses."""
    runners = []
    monkeypatch.setattr("demt.export.write.capture", lambda network, size: network)
    monkeypatch.setattr(export_formats, "runner", lambda program: program)

    def write(program, path, format, metadata, opset, float16=False):
        path.write_bytes(b"x")
        return runners[0] if runners else lambda images: model(images)

    monkeypatch.setattr(export_formats, "write", write)
    return runners


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda out: {**out, "edge": out["edge"] + 0.01 * out["edge"].std()},
            "edge would differ from the model's by 0.01",
        ),
        (lambda out: {**out, "sal": out["sal"] * float("nan")}, "sal would differ from the model's by nan"),
        (lambda out: {**out, "normals": out["normals"][:, :1]}, "normals has shape"),
        (
            lambda out: {**out, "edge": out["edge"].reshape(7)},
            r"does not run on images \(1, 3, 64, 96\); fixing.*: RuntimeError",
        ),
        (lambda out: {name: out[name] for name in list(out)[1:]}, r"outputs \['sal', 'normals', 'edge'\]"),
    ],
)
def test_a_file_that_differs_is_not_kept(wrong, message, fake, model, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"older")
    fake.append(lambda images: wrong(model(images)))
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "model.onnx")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"older"]
    fake.clear()
    assert export(model, tmp_path / "model.onnx").error < 1e-4
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"x"]


def test_class_ids_may_differ_only_between_equals(fake, model, tmp_path):
    def swapped(images):
        return {name: model.tasks[name].predict(values) for name, values in model(images).items()}

    fake.append(swapped)
    assert export(model, tmp_path / "model.onnx", predictions=True).error < 1e-4
    fake[0] = lambda images: {**swapped(images), "semseg": (swapped(images)["semseg"] + 1) % 5}
    with pytest.raises(ExportError, match="semseg would differ"):
        export(model, tmp_path / "model.onnx", predictions=True)


def test_without_onnxruntime_nothing_is_compared_and_the_command_says_so(fake, model, tmp_path):
    fake.append(None)
    assert export(model, tmp_path / "a.onnx").error is None
    result = CliRunner().invoke(app, ["export", "demt_nano", str(tmp_path / "b.onnx"), "--random-weights"])
    assert result.exit_code == 0
    assert "Not compared with the model, as onnxruntime is not installed: pip install 'demt[onnx]'" in result.stderr


def test_missing_packages_are_named(fake, model, tmp_path, monkeypatch):
    monkeypatch.setattr(export_formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: pip install 'demt\[onnx\]'"):
        export(model, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.txt"}, "end in .onnx or .pt2, or `format` to be given, got 'model.txt'"),
        ({"path": "model.onnx", "format": "aoti"}, "end in .pt2 for format 'aoti'"),
        ({"path": "model.pt2", "format": "tflite"}, "`format` to be one of"),
        ({"path": "none/model.onnx"}, "a file in a folder that exists"),
        ({"path": "model.onnx", "size": (480,)}, "`size` to be .height, width."),
        ({"path": "model.onnx", "size": (480, 0)}, "`size` to be"),
        ({"path": "model.onnx", "opset": 17}, "`opset` to be an integer >= 18, got 17"),
    ],
)
def test_wrong_arguments(arguments, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export(model, **arguments)
    assert not list(tmp_path.iterdir())


def test_wrong_models(model, tmp_path):
    with pytest.raises(ValueError, match=r"float32, got torch.float64; convert it with model.float"):
        export(demt.create_model("demt_nano").double(), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="`model` to be a demt model, got Linear"):
        export(torch.nn.Linear(1, 1), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demt_nano", "a.onnx"], "There are no weights for 'demt_nano' yet; add --random-weights"),
        (["demt_nano", "a.onnx", "--random-weights", "--size", "480"], None),
        (["demt_nano", "a.onnx", "--random-weights", "--size", "480xx"], "Expected --size as HEIGHTxWIDTH"),
        (["demt_nano", "a", "--random-weights"], "Expected `path` to end in .onnx or .pt2"),
        (["demt_nano", "none/a.onnx", "--random-weights"], "a folder that exists"),
    ],
)
def test_command_errors_are_one_line(arguments, message, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.append(None)
    result = CliRunner().invoke(app, ["export", *arguments])
    assert result.exit_code == (0 if message is None else 1)
    if message is not None:
        assert message in result.stderr
        assert "Traceback" not in result.output
        assert not list(tmp_path.iterdir())


@needs_export
def test_what_cannot_be_captured_is_said(model, monkeypatch):
    network = Outputs(model, False)
    monkeypatch.setattr(network, "forward", lambda images: {"a": images if images.sum() > 0 else -images})
    with pytest.raises(ExportError, match="cannot capture this model; fixing height and width with `size` may help"):
        capture(network)


@needs_export
@pytest.mark.slow
def test_other_threads_keep_the_fast_operators_and_their_numbers(monkeypatch):
    network = demt.create_model("demt", tasks={"depth": 1}, depth=1, **SMALL).eval()
    other, images = copy.deepcopy(network), torch.randn(2, 3, 64, 96)
    threads, standard = set(), deform.deform_mix_standard
    monkeypatch.setattr(
        deform, "deform_mix_standard", lambda *given: threads.add(threading.get_ident()) or standard(*given)
    )

    def gradient():
        other.zero_grad()
        other(images)["depth"].square().mean().backward()
        return other.head.neck.proj.weight.grad.clone()

    expected = gradient()
    captured = []
    exporter = threading.Thread(target=lambda: captured.append(capture(Outputs(network, False))))
    exporter.start()
    gradients = [gradient()]
    while exporter.is_alive():
        gradients.append(gradient())
        time.sleep(0.2)  # the exporter needs the interpreter, too
    assert captured
    assert len(gradients) > 1
    assert threads == {exporter.ident}
    for each in gradients:
        torch.testing.assert_close(each, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


@pytest.mark.parametrize("format", ["onnx", "pt2", "aoti"])
def test_what_cannot_be_written_is_said(format, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such operator\nand pages more")

    monkeypatch.setattr(export_formats, f"_write_{format}", fail)
    with pytest.raises(ExportError, match=f"cannot be written as {format}: RuntimeError: no such operator$"):
        export_formats.write(None, tmp_path / "model.pt2", format, {}, 20)


MODES = {"released": {}, "papers": {"interaction": "global", "query": "global"}}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backbone", ["nano", "hrnet_w18", "swin_tiny", "vit_base"])
@pytest.mark.parametrize("family", ["demt", "demtg", "degmix"])
def test_every_family_on_every_kind_of_backbone(family, backbone, mode, tmp_path):
    network = demt.create_model(f"{family}_{backbone}.pascal", **MODES[mode]).eval()
    for name in ("model.onnx", "model.pt2"):
        assert export(network, tmp_path / name, predictions=family == "demtg").error < 1e-3
    images = torch.randn(2, 3, 224, 127)
    with torch.no_grad():
        expected = network(images)
    if family != "demtg":
        found = outputs(tmp_path / "model.onnx", images)
        assert all(deviation(found[name], expected[name]) < 1e-3 for name in expected)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "convnextv2_atto",
        "mobilenetv3_small_100",
        "vit_tiny_patch16_224",
        "tf_efficientnet_lite0",
        "vit_small_patch14_dinov2",
        "vit_small_patch16_dinov3",
    ],
)
def test_other_backbones(backbone, tmp_path):
    network = demt.create_model("demt", backbone=backbone, tasks={"semseg": 5}, width=32, heads=2).eval()
    assert export(network, tmp_path / "model.onnx").error < 1e-3


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"size": (64, 96)}, {"size": (50, 20)}, {"opset": 20}])
def test_options(options, model, tmp_path):
    assert export(model, tmp_path / "model.onnx", **options).error < 1e-3
    images = torch.randn(2, 3, *options.get("size", (70, 90)))
    with torch.no_grad():
        expected = model(images)
    assert all(deviation(out, expected[name]) < 1e-3 for name, out in outputs(tmp_path / "model.onnx", images).items())


COMPILED = """
import json, sys, torch
model = torch._inductor.aoti_load_package("model.pt2")
images = torch.load("images.pt")
torch.save([model(each) for each in images], "outputs.pt")
print(json.loads(model.loader.get_metadata()["demt"])["outputs"], "demt" in sys.modules)
"""


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["demt_nano", "degmix_swin_tiny"])
def test_compiled_package_runs_in_a_process_without_this_package(name, tmp_path):
    network = demt.create_model(name).eval()
    assert export(network, tmp_path / "model.pt2", format="aoti").error < 1e-3
    images = [torch.randn(size) for size in ((2, 3, 128, 160), (1, 3, 35, 75), (1, 3, 61, 224))]
    runs_in_a_process_of_its_own(COMPILED, network, images, tmp_path)


@needs_export
@needs_onnx
def test_weights_in_float16_halve_the_file(model, tmp_path):
    """As a network whose weights were rounded computes; products stay float32, and so do inputs and outputs."""
    import onnx
    from onnx import numpy_helper

    whole = export(model, tmp_path / "whole.onnx")
    half = export(model, tmp_path / "half.onnx", float16=True)
    assert half.path.stat().st_size < 0.55 * whole.path.stat().st_size
    assert whole.error < half.error < 0.02
    # Rounded by another hand: the float32 file with numpy's float16 of each of its weights.
    rounded = onnx.load(tmp_path / "whole.onnx")
    for weight in rounded.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == "float32" and values.size >= 256:
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16").astype("float32"), weight.name))
    onnx.save(rounded, tmp_path / "rounded.onnx")
    images = torch.randn(2, 3, 70, 100)
    expected, found = outputs(tmp_path / "rounded.onnx", images), outputs(tmp_path / "half.onnx", images)
    assert list(found) == list(model.tasks)
    for name, values in found.items():
        assert values.dtype == torch.float32
        assert deviation(values, expected[name]) < 1e-4


def test_float16_is_for_onnx(model, tmp_path):
    with pytest.raises(ValueError, match="Expected `format` 'onnx' with `float16`, got 'pt2'"):
        export(model, tmp_path / "model.pt2", float16=True)
    assert not list(tmp_path.iterdir())


def test_weights_beyond_float16_stay_float32():
    ir = pytest.importorskip("onnx_ir")
    import numpy as np

    from demt.export.half import store_float16

    weights = {"large": np.full(300, 1e6, np.float32), "usual": np.full(300, 0.5, np.float32)}
    values = [ir.val(name, const_value=ir.tensor(each, name=name)) for name, each in weights.items()]
    total = ir.node("Add", values)
    graph = ir.Graph([], total.outputs, nodes=[total], initializers=values, opset_imports={"": 20})
    store_float16(ir.Model(graph, ir_version=10))
    assert {name: each.const_value.dtype.name for name, each in graph.initializers.items()} == {
        "large": "FLOAT",
        "usual_float16": "FLOAT16",
    }
    assert [node.op_type for node in graph] == ["Cast", "Add"]
