"""What commands print for programs: one JSON document, and nothing else; and what shells complete."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.cli.common import print_json
from demt.inference.cost import count_multiply_adds, count_parameters
from demt.models.variants import SCORES
from demt.registry import get_config, list_tags
from tests.train.worker import reset


def document(*arguments, code=0):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(tmp_path / f"photos/{name}.png")
    return tmp_path / "photos"


def test_predict(pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"broken")
    out = tmp_path / "out"
    command = ["predict", pictures, "-m", "multitask_baseline_nano.rooms", "-o", out, "--save", "arrays,png16"]
    found = document(*command, "--tasks", "depth, normals", code=1)
    endings = (".npz", "_depth.16bit.png", "_normals.16bit.png")
    assert found["out"] == str(out)
    assert (found["new"], found["kept"]) == (2, 0)
    assert [entry["image"] for entry in found["pictures"]] == [str(pictures / "a.png"), str(pictures / "b.png")]
    assert set(found["pictures"][0]["files"]) == {f"{out}/a{ending}" for ending in endings}
    assert {path.name for path in out.iterdir()} == {f"{name}{ending}" for name in "ab" for ending in endings}
    (failed,) = found["failed"]
    assert failed["image"] == str(pictures / "broken.png")
    assert "cannot be read as an image" in failed["error"]
    again = document(*command, "--tasks", "depth,normals", code=1)
    assert (again["new"], again["kept"]) == (0, 2)


def test_list():
    names = [f"{arch}.{tag}" for arch, tags in list_tags().items() for tag in tags]
    assert [record["name"] for record in document("list")] == names
    (record,) = document("list", "demt_nano.rooms", "--details")
    config, cfg = get_config("demt_nano.rooms")
    assert record["parameters"] == count_parameters(config)
    assert record["size"] == list(cfg.input_size[1:])
    assert record["multiply_adds"] == count_multiply_adds(config, cfg.input_size[1:])
    assert record["weights"]["here"] is True
    assert all(record["weights"] for record in document("list", "--pretrained"))
    assert CliRunner().invoke(app, ["list", "nothing_such", "--json"]).stdout == ""


def test_info():
    found = document("info", "demt_nano.rooms")
    assert found["own_scores"] == SCORES["demt_nano.rooms"]
    assert demt.ModelConfig.from_dict(found["config"]) == get_config("demt_nano.rooms")[0]
    published = document("info", "degmix_swin_large.nyud")["published"]
    assert published == {"semseg": 57.55, "depth": 0.5037, "normals": 19.21, "edge": 79}


def test_eval(tmp_path):
    reset()
    out = tmp_path / "results.json"
    found = document("eval", "multitask_baseline_nano.rooms", "rooms", "--size", "48x64", "--length", 2, "--out", out)
    assert found == json.loads(out.read_text())
    assert found["results"]["semseg/miou"] > 0


def test_numbers_that_json_lacks_are_null(capsys):
    print_json({"a": [math.nan, 1.5], "b": math.inf, "c": "NaN"})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": None, "c": "NaN"}


@pytest.mark.parametrize(("typed", "expected"), [("demt pre", "predict"), ("demt predict --prec", "--precision")])
def test_shells_complete_commands_and_options(typed, expected):
    words = {"_DEMT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    result = CliRunner().invoke(app, [], env=words, prog_name="demt")
    assert expected in result.output.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Choose a model: --model NAME"),
        (["-m", "demt_nano.rooms"], "Say what to predict on"),
        (["-m", "demt_nano.rooms", "--list", "none.txt"], "No list of pictures at 'none.txt'"),
        (["photo.png", "-m", "demt_nano.rooms", "--tasks", "depht"], "`tasks` names ['depht']"),
        (["photo.png", "-m", "demt_nano.rooms", "--save", "pdf"], "`save` to be of panel, pictures, arrays"),
        (["photo.png", "-m", "demt_nano.rooms", "--precision", "fp16", "--device", "cpu"], "needs a GPU"),
    ],
)
def test_errors_are_one_line_and_no_document(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["predict", *arguments, "--json"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_processes_that_do_not_fit(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for rank, size in (("2", "2"), ("x", "2"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        result = CliRunner().invoke(app, ["predict", "a.png", "-m", "demt_nano.rooms"])
        assert result.exit_code == 1
        assert "variables RANK and WORLD_SIZE to be whole numbers" in result.stderr
