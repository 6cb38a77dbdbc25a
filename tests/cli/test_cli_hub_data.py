"""Parquet files on the command line give what folders of the same files give, and one line for whatever is wrong."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import demt
from demt.cli import app
from tests.data.test_hub_dataset import of_folder, png
from tests.train.worker import reset

datasets = pytest.importorskip("datasets")
COLUMNS = "image=rgb,semseg=segmentation,normals=normal"
TASKS = "semseg=4,depth,normals"
ENCODINGS = "depth=millimetres,normals=rgb_normals"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def stored(tmp_path):
    """A folder, and the same files in the columns of two splits."""
    stored, _ = of_folder(tmp_path / "folder", ("a", "b", "c", "d"), {("b", "depth")})
    (tmp_path / "parquet").mkdir()
    stored.select([0, 1]).to_parquet(tmp_path / "parquet/train-00000.parquet")
    stored.select([2, 3]).to_parquet(tmp_path / "parquet/validation-00000.parquet")
    stored.to_parquet(tmp_path / "all.parquet")
    return stored


def run(*arguments):
    reset()
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})
    return result.exit_code, result.stdout, result.stderr


def test_check_sees_what_it_sees_in_a_folder(stored, tmp_path):
    common = ["--tasks", TASKS, "--encodings", ENCODINGS, "--json"]
    code, out, err = run("data", "check", tmp_path / "folder", *common)
    assert (code, err) == (0, "")
    folder = json.loads(out)
    code, out, err = run("data", "check", tmp_path / "parquet", "--columns", COLUMNS, *common)
    assert (code, err) == (0, "")
    parquet = json.loads(out)
    assert parquet["values"] == folder["values"]
    assert {name: split["whole"] for name, split in parquet["splits"].items()} == {"train": 2, "validation": 2}
    code, out, _ = run("data", "check", tmp_path / "parquet", "--columns", COLUMNS, *common, "--split", "train[1:]")
    assert json.loads(out)["splits"]["train[1:]"]["listed"] == 1


def test_check_draws_a_sheet(stored, tmp_path):
    common = ["--tasks", TASKS, "--encodings", ENCODINGS, "--columns", COLUMNS]
    code, _, _ = run("data", "check", tmp_path / "all.parquet", *common, "--sheet", tmp_path / "sheet.png")
    assert code == 0
    assert Image.open(tmp_path / "sheet.png").width > 400


def test_check_names_row_and_column(tmp_path):
    good, small = png(np.zeros((8, 8), np.uint8)), png(np.full((4, 4), 1, np.uint8))
    image = png(np.zeros((8, 8, 3), np.uint8))
    rows = {"image": [image, None, image, image], "semseg": [good, good, b"no picture", small]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "bad.parquet")
    code, out, _ = run("data", "check", tmp_path / "bad.parquet", "--tasks", "semseg=4", "--json")
    problems = json.loads(out)["problems"]
    assert code == 1
    assert [(each["kind"], each["task"], each["id"]) for each in problems] == [
        ("missing", "image", "1"),
        ("invalid", "semseg", "2"),
        ("size", "semseg", "3"),
    ]
    assert all(f"row {each['id']}, column {each['task']}" in each["message"] for each in problems)


def test_eval_gives_the_metrics_of_a_folder(stored, tmp_path):
    model = demt.create_model("multitask_baseline", backbone="test_vit.r160_in1k", tasks={"semseg": 4, "depth": 1})
    model.eval().save_pretrained(tmp_path / "model")
    common = ["--encodings", "depth=millimetres", "--json"]
    code, out, err = run("eval", tmp_path / "model", tmp_path / "folder", *common)
    assert code == 0, err
    folder = json.loads(out)["results"]
    common += ["--columns", "image=rgb,semseg=segmentation"]
    code, out, err = run("eval", tmp_path / "model", tmp_path / "all.parquet", *common)
    assert code == 0, err
    found = json.loads(out)
    assert found["results"] == pytest.approx(folder)
    assert found["split"] == "train"
    code, out, _ = run("eval", tmp_path / "model", tmp_path / "parquet", *common)
    assert code == 0
    assert json.loads(out)["split"] == "validation"
    assert json.loads(out)["results"] != pytest.approx(folder)
    wrong = run("eval", tmp_path / "model", tmp_path / "all.parquet", "--columns", "image=rgb,semseg=x")
    assert wrong[0] == 1
    assert "has no column 'x' for task 'semseg'" in wrong[2]
    datasets.Dataset.from_dict({"image": [png(np.zeros((8, 8, 3), np.uint8))]}).to_parquet(tmp_path / "bare.parquet")
    wrong = run("eval", tmp_path / "model", tmp_path / "bare.parquet")
    assert wrong[0] == 1
    assert "has none of the model's tasks ['semseg', 'depth']; columns are image" in wrong[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--tasks semseg=5,depth; columns are name, rgb, segmentation, depth, normal"),
        (["--tasks", "semseg=4"], "has no column 'image' for images"),
        (["--tasks", "semseg=4", "--columns", "image"], "--columns as name=column,name=column, got 'image' alone"),
        (["--tasks", "semseg=4", "--columns", "image=rgb,image=rgb"], "each name once"),
        (["--tasks", "semseg=4", "--columns", "image=rgb", "--dataset", "nyud"], "--columns is for Parquet"),
        (["--tasks", "semseg=4", "--columns", "image=rgb", "--ids", "ids.txt"], "--ids is for folders"),
        (["--tasks", "semseg=4", "--columns", "image=rgb", "--split", "test"], "cannot be opened"),
    ],
)
def test_errors_are_one_line(arguments, message, stored, tmp_path):
    code, _, err = run("data", "check", tmp_path / "all.parquet", *arguments)
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
