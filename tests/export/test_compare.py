"""All forms of a model: timed in turns, compared with torch in float32, and none dropped without a reason."""

import importlib.util
import json
import time

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.export import compare as comparing
from demt.export.compare import TORCH, Loaded, load_forms, measure
from tests.conftest import needs_export

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="needs onnx"
)
NAMES = ["torch", "torch, bf16", "torch.compile", "torch.compile, bf16", "ONNX", "ONNX, float16 weights", "ONNX, int8"]
NAMES += ["OpenVINO", "OpenVINO, bf16", "OpenVINO, int8", "OpenVINO, int8 and bf16"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tasks = {"semseg": 5, "depth": 1}
    return demt.create_model("demt", tasks=tasks, backbone="resnet10t", width=32, heads=2).eval()


def test_forms_run_in_turns_and_are_compared(model):
    calls = []

    def logged(name, run):
        return lambda images: (calls.append(name), run(images))[1]

    def slower(images):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return {name: logits * (1.25 if name == "depth" else 1) for name, logits in model(images).items()}

    def broken(images):
        raise RuntimeError("cannot run\nand more")

    loaded = {
        TORCH: Loaded(logged("torch", model), 40),
        "slower": Loaded(logged("slower", slower), 20),
        "broken": Loaded(broken, 1),
        "absent": "needs something",
    }
    images = [torch.randn(1, 3, 64, 96) for _ in range(2)]
    first, second, third, fourth = measure(model, loaded, images, 3)
    assert calls == ["torch"] * 2 + ["slower"] * 2 + ["torch", "slower"] * 3
    assert (first.name, first.bytes, first.differences) == ("torch", 40, {"semseg": 0, "depth": 0})
    assert second.cpu_seconds > first.cpu_seconds > 0
    assert second.seconds >= 0.05
    assert second.differences == {"semseg": 0, "depth": pytest.approx(0.25)}
    assert (third.name, third.missing, third.seconds) == ("broken", "RuntimeError: cannot run", None)
    assert (fourth.name, fourth.missing) == ("absent", "needs something")


def without(monkeypatch, *packages):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else found(name))


def test_a_form_that_gives_nan_is_listed_as_such_and_not_timed(model):
    def half_nan(images):
        return {name: maps.where(maps > maps.mean(), torch.nan) for name, maps in model(images).items()}

    images = [torch.randn(1, 3, 33, 40)]
    first, second = measure(model, {TORCH: Loaded(model, 40), "wrong": Loaded(half_nan, 20)}, images, 1)
    assert first.missing is None
    assert second.missing is not None
    assert "gives NaN or infinite values here, of semseg, depth" in second.missing
    assert second.seconds is second.differences is None
    with pytest.raises(ValueError, match=r"Torch in float32.* failed: .*NaN or infinite values here, of semseg, depth"):
        measure(model, {TORCH: Loaded(half_nan, 40), "right": Loaded(model, 20)}, images, 1)


def test_every_form_that_is_missing_says_why(model, tmp_path, monkeypatch):
    without(monkeypatch, "onnx", "onnxscript", "openvino")
    monkeypatch.setattr(comparing, "has_cpp_compiler", lambda: False)
    monkeypatch.setattr("demt.inference.forward.cpu_has_bf16", lambda: False)
    found = load_forms(model, tmp_path)
    assert list(found) == NAMES
    assert isinstance(found.pop("torch"), Loaded)
    for name, words in {
        "torch, bf16": "no instructions for bf16",
        "torch.compile": "install g",
        "torch.compile, bf16": "install g",
        "ONNX": r"pip install 'demt[onnx]'",
        "ONNX, float16 weights": r"pip install 'demt[onnx]'",
        "ONNX, int8": "--calibrate FOLDER",
        "OpenVINO": "pip install openvino",
        "OpenVINO, bf16": "no instructions for bf16",
        "OpenVINO, int8": "pip install openvino",
        "OpenVINO, int8 and bf16": "no instructions for bf16",
    }.items():
        assert words in found.pop(name)
    assert not found
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_export
@needs_onnx
def test_command(model, tmp_path):
    """The forms that this machine has agree with torch; int8 as far as its bound."""
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for index in range(8):
        pixels = (demt.data.SyntheticRooms((64, 96), 8)[index]["image"] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"pictures/{index}.png")
    command = ["benchmark", "--all-formats", str(tmp_path / "model"), "--size", "64x96", "--rounds", "2"]
    result = CliRunner().invoke(app, [*command, "--calibrate", str(tmp_path / "pictures"), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["size"], document["threads"], document["rounds"]) == ([64, 96], 1, 2)
    forms = {form["name"]: form for form in document["forms"]}
    assert list(forms) == NAMES
    for name in ("torch", "ONNX"):
        assert forms[name]["missing"] is None
        assert forms[name]["cpu_seconds"] > 0
        assert max(forms[name]["differences"].values()) < 1e-3
    assert forms["ONNX, float16 weights"]["bytes"] < 0.6 * forms["ONNX"]["bytes"]
    assert max(forms["ONNX, float16 weights"]["differences"].values()) < 0.02
    for form in forms.values():
        assert (form["missing"] is None) == (form["seconds"] is not None)

    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "Not measured: ONNX, int8: needs pictures: --calibrate FOLDER" in result.output
    assert "float16 weights" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all-formats", "demt_nano.nyud"], "add --random-weights"),
        (["--all-formats", "demt_nano.rooms", "--way", "fused"], "drop --way"),
        (["--all-formats", "demt_nano.rooms", "--size", "64x64", "--size", "96x96"], "Expected one --size"),
        (["--all-formats", "demt_nano.rooms", "--size", "64x"], "HEIGHTxWIDTH"),
        (["--all-formats", "demt_nano.rooms", "--calibrate", "no_such_folder"], "No folder of calibration pictures"),
        (["demt_nano.rooms", "--json"], "with --all-formats"),
    ],
)
def test_command_on_bad_input(arguments, message):
    result = CliRunner().invoke(app, ["benchmark", *arguments])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit)
