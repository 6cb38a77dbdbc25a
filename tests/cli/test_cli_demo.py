"""`demt demo`: the folder of a Space, and errors; `tests/inference/test_demo_browser.py` serves the page."""

import ast
import sys

import pytest
from huggingface_hub import metadata_load
from typer.testing import CliRunner

import demt
from demt.cli import app


def run(*arguments):
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def gradio():
    return pytest.importorskip("gradio", reason="gradio is not installed: pip install 'demt[demo]'")


def test_a_space_is_a_folder(gradio, tmp_path):
    code, said = run("--space", tmp_path / "space", "-m", "demt_lite.photos", "-m", "demt_nano.rooms")
    assert code == 0, said
    assert sorted(file.name for file in (tmp_path / "space").iterdir()) == ["README.md", "app.py", "requirements.txt"]
    metadata = metadata_load(tmp_path / "space/README.md")
    assert metadata["sdk"] == "gradio"
    assert metadata["sdk_version"] == gradio.__version__
    assert metadata["app_file"] == "app.py"
    # The colours that the Hub knows.
    assert metadata["colorFrom"] in ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    assert (tmp_path / "space/requirements.txt").read_text() == f"demt[demo]=={demt.__version__}\n"
    code = (tmp_path / "space/app.py").read_text()
    names = next(node.value for node in ast.parse(code).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(names) == ["demt_lite.photos", "demt_nano.rooms"]
    code, said = run("--space", tmp_path / "space")
    assert code == 1
    assert "exists and is not empty" in said


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("demt_swin_tiny.nyud", "A Space cannot load 'demt_swin_tiny.nyud'"),
        ("demt_nano", "There are no weights for 'demt_nano' yet"),
        ("demt_nan", "Unknown model 'demt_nan'"),
    ],
)
def test_a_space_has_models_that_it_can_load(gradio, tmp_path, model, message):
    code, said = run("--space", tmp_path / "space", "-m", model)
    assert code == 1
    assert message in said
    assert not list(tmp_path.iterdir())


def test_a_folder_on_this_machine_is_none_of_them(gradio, tmp_path):
    demt.create_model("demt_nano", tasks={"sal": 2}).save_pretrained(tmp_path / "model")
    code, said = run("--space", tmp_path / "space", "-m", tmp_path / "model")
    assert code == 1
    assert "put them there (demt publish)" in said
    assert not (tmp_path / "space").exists()


def test_errors_come_before_a_server(monkeypatch, tmp_path):
    assert run("-m", "demt_nan")[1].startswith("Error: Unknown model 'demt_nan'")
    monkeypatch.setitem(sys.modules, "gradio", None)
    for arguments in ((), ("--space", tmp_path / "space")):
        code, said = run(*arguments)
        assert code == 1
        assert said.endswith("needs gradio: pip install 'demt[demo]'")
