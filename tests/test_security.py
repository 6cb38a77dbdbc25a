"""docs/security.md names tests that exist; and the promises that no other test file holds."""

import ast
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import demt
from demt.metrics.boundary.files import read_prediction, read_truth
from demt.train import load_recipe
from demt.train.state import read_state, write_state
from tests.memory import little_memory

ROOT = Path(__file__).parent.parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "demt").rglob("*.py")}


def test_the_page_names_tests_that_exist():
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "tests |" not in line]
    assert len(rows) > 20
    assert all("::test_" in row for row in rows)
    for file, function in named:
        assert re.search(rf"^def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), (file, function)


def calls(tree):
    """Calls of a module by their dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg for keyword in node.keywords}


def test_nothing_in_the_package_unpickles_or_evaluates():
    forbidden = {
        "torch.load",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "yaml.load",
        "eval",
        "exec",
        "os.system",
    }
    for path, tree in TREES.items():
        assert not forbidden & {name for name, _ in calls(tree)}, path
        for name, keywords in calls(tree):
            assert name != "np.load" or "allow_pickle" in keywords, path


def test_every_picture_is_opened_by_named_formats():
    opened = [
        (path, keywords) for path, tree in TREES.items() for name, keywords in calls(tree) if name == "Image.open"
    ]
    assert len(opened) >= 4
    assert all("formats" in keywords for _, keywords in opened), opened


def postscript(path):
    Image.new("RGB", (8, 8)).save(path, "EPS")


class Touches:
    """Unpickled, it writes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_resuming_runs_nothing(tmp_path):
    write_state(tmp_path, {"model": {"weight": torch.ones(2)}, "step": 3})
    assert read_state(tmp_path)["step"] == 3
    torch.save(Touches(tmp_path / "ran"), tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_state(tmp_path)
    write_state(tmp_path, {"step": 3})
    torch.save(Touches(tmp_path / "ran"), tmp_path / "state.json")
    with pytest.raises(ValueError, match="is damaged"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is damaged"):
        read_state(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_recipes_neither_run_nor_explode(tmp_path):
    file = tmp_path / "recipe.yaml"

    def refused(text, message):
        file.write_text(text)
        with little_memory(), pytest.raises(ValueError, match=message):
            load_recipe(file)

    refused(f"out: !!python/object/apply:os.system ['touch {tmp_path / 'ran'}']", "not valid YAML")
    assert not (tmp_path / "ran").exists()
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    refused("\n".join(["a0: &a0 [1, 2]", *levels, "steps: *a11"]), "stands for more than 100,000 values")
    refused("steps: &a [*a]", "stands for more than 100,000 values")
    refused("steps: " + "[" * 10_000, "not valid YAML")
    refused("# " + "x" * 2**20, "expected at most 1,048,576")


def test_true_maps_and_predictions(tmp_path):
    picture, array = tmp_path / "a.png", tmp_path / "a.npy"
    postscript(picture)
    for read in (read_prediction, lambda path: read_truth(path, "raw")):
        with pytest.raises(ValueError, match="cannot be read as a picture"):
            read(picture)
    header = np.lib.format.header_data_from_array_1_0(np.zeros((2, 2))) | {"shape": (2**20, 2**20)}
    with array.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with little_memory(), pytest.raises(ValueError, match="cannot be read as an array"):
        read_truth(array, "raw")
    np.save(array, np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array"):
        read_truth(array, "raw")


def test_pictures_of_model_cards(tmp_path):
    model = demt.create_model("demt_nano", tasks={"depth": 1})
    postscript(tmp_path / "panel.jpg")
    with pytest.raises(ValueError, match=r"panel\.jpg.*not one of PNG"):
        model.save_pretrained(tmp_path / "model", card=demt.ModelCard(picture=tmp_path / "panel.jpg"))
