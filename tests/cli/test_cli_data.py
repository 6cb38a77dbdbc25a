"""`demt data` as people use it: what it prints at 80 columns, and how it exits."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from demt.cli import app
from demt.data import SyntheticRooms, published
from tests.data import writers
from tests.data.test_folder import own_data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    rooms = SyntheticRooms(size=(38, 52), length=5, seed=12)
    for name, layout in [("nyud", "astmt"), ("nyud", "vandenhende"), ("pascal", "atrc")]:
        rooms.write(folder / layout, name, layout, splits={"train": 3, "val": 2})
    return folder


def run(*arguments, columns=80):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": str(columns)})
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def squeezed(text):
    return " ".join(text.split())


def test_a_whole_data_set(written, tmp_path):
    code, output = run("check", written / "astmt", "--subset", "--sheet", tmp_path / "sheet.png")
    assert code == 0
    assert "NYUD-v2, layout astmt" in output
    assert "train 3 3 3" in squeezed(output)
    assert "semseg 5 100.0% 15 of 40 classes" in squeezed(output)
    assert "No problems" in output
    # Lines with paths are not broken, so that they can be copied.
    assert max(len(line) for line in output.splitlines() if str(tmp_path.parent) not in line) <= 80
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1200


def test_a_damaged_data_set(written, tmp_path):
    root = shutil.copytree(written / "astmt", tmp_path / "data")
    for k in range(5):
        (root / f"depth/00000{k}.mat").write_bytes(b"")
    (root / "edge/000001.png").unlink()
    code, output = run("check", root)
    assert code == 1
    assert "train 3 795 3 0" in squeezed(output)
    for line in (
        "Lists and counts (2)",
        "train has 3 samples, but the published one has 795",
        "Missing files (1)",
        "No file 'edge/000001.png'",
        "Empty files (5)",
        "'depth/000000.mat' is empty",
        "… and 2 more of depth; --json lists all",
        "8 problems",
    ):
        assert line in output
    assert run("check", root, "--tasks", "semseg,normals", "--subset")[0] == 0
    assert run("check", root, "--split", "train", "--subset", "--sample", 1)[0] == 1
    code, output = run("check", root, "--json", "--workers", 0)
    assert code == 1
    assert len(json.loads(output)["problems"]) == 8


def test_pascal(written, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "default_folder", lambda: tmp_path / "cache")
    code, output = run("check", written / "atrc", "--subset", "--sample", 1)
    assert code == 0
    assert "PASCAL-Context, layout atrc" in output
    assert "No problems; 2 of 5 samples were opened" in output


def test_own_data(tmp_path):
    own_data(tmp_path)
    for path in (tmp_path / "normals").rglob("*.png"):
        writers.picture(path, np.full((*writers.SIZE, 3), (128, 128, 255), np.uint8))
    code, output = run("check", tmp_path)
    assert code == 1
    options = "--tasks semseg=4,normals,depth --encodings normals=rgb_normals,depth=millimetres"
    assert f"perhaps: demt data check {tmp_path} {options}" in output
    code, output = run("check", tmp_path, *options.split())
    assert code == 0
    assert "Own data" in output
    assert "semseg 3 100.0% 4 of 4 classes" in squeezed(output)
    writers.lines(tmp_path / "index.csv", ["image,semseg", "images/a.png,semseg/a.png"])
    code, output = run("check", tmp_path, "--index", "index.csv", "--tasks", "semseg=3")
    assert code == 1
    assert "is not a class of task 'semseg'" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "semseg,depth", "--encodings", "depth=metres"], "number of classes of 'semseg'"),
        (["--tasks", "semseg=many"], "got semseg=many"),
        (["--tasks", "semseg=4,semseg=5"], "each name once"),
        (["--tasks", "depth=1", "--encodings", "depth=feet"], "Unknown encoding 'feet'"),
        (["--tasks", "depth=1", "--encodings", "depth"], "Unknown encoding ''"),
        (["--tasks", "height=1"], "Unknown task 'height'"),
        (["--encodings", "depth=metres"], "perhaps: demt data check"),
        (["--tasks", "semseg=4", "--sheet", "sheet.jpg"], "--sheet as a .png file"),
        (["--tasks", "semseg=4", "--images", "photos"], "No folder"),
        (["--dataset", "kitti"], "got 'kitti'"),
        (["--dataset", "nyud"], "no known layout"),
        (["--dataset", "nyud", "--layout", "raw"], "Expected `layout` of 'nyud'"),
    ],
)
def test_errors(tmp_path, arguments, message):
    own_data(tmp_path)
    code, output = run("check", tmp_path, *arguments)
    assert code == 1
    assert message in output


def test_convert(written, tmp_path):
    code, output = run("convert", written / "astmt", tmp_path / "new", "--layout", "vandenhende")
    assert code == 0
    assert "image 5 0 none" in squeezed(output)
    assert "depth 0 5 none" in squeezed(output)
    assert "Lossy" not in output
    assert run("check", tmp_path / "new", "--subset")[0] == 0
    code, output = run("convert", written / "vandenhende", tmp_path / "newer", "--layout", "atrc", "--tasks", "normals")
    assert code == 0
    assert "Lossy: normals." in output
    code, output = run("convert", written / "vandenhende", tmp_path / "newer", "--layout", "atrc")
    assert code == 1
    assert "is not empty" in output


def test_unpack(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("NYUDv2/images/1.png", b"1")
    code, output = run("unpack", tmp_path / "a.zip", tmp_path / "data")
    assert code == 0
    assert f"1 files in {tmp_path / 'data'}; next: demt data check {tmp_path / 'data/NYUDv2'}" in output
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("../[red]x\x1b", b"1")
    code, output = run("unpack", tmp_path / "b.zip", tmp_path / "other")
    assert code == 1
    assert r"out of the folder, '../[red]x\x1b'" in output
    assert run("unpack", tmp_path / "a.zip", tmp_path / "other", "--max-gib", 0)[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "data"]
