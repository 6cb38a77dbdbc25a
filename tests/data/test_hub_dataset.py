"""Data sets by column: the same labels as folders of the same files give, and one line for whatever is wrong."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

import demt.data.files
from demt.data import DataError, HubDataset, MultiTaskFolder
from demt.tasks import Task
from demt.train import open_dataset, recipe_from
from tests.data.test_folder import ENCODINGS, TASKS, check, own_data
from tests.data.writers import SIZE, ignored
from tests.hub_server import HubServer

datasets = pytest.importorskip("datasets")
COLUMNS = {"image": "rgb", "semseg": "segmentation", "normals": "normal"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def of_folder(root, names, unlabelled=()):
    """A data set with the files of `own_data` as its cells, and what must come back."""
    expected = own_data(root, names, unlabelled)
    rows = {"name": list(names)}
    for folder, column in (("images", "rgb"), ("semseg", "segmentation"), ("depth", "depth"), ("normals", "normal")):
        files = [root / folder / f"{name}.png" for name in names]
        rows[column] = [{"bytes": file.read_bytes(), "path": None} if file.exists() else None for file in files]
    kinds = {column: datasets.Image() for column in rows if column != "name"}
    features = datasets.Features(name=datasets.Value("string"), **kinds)
    return datasets.Dataset.from_dict(rows, features=features), expected


def arrays(count=2, **changes):
    """A data set of numbers, channels first, as copies of NYUD-v2 on the Hub are; and its rows."""
    rng = np.random.default_rng(0)
    rows = {
        "image": [rng.random((3, *SIZE), np.float32) for _ in range(count)],
        "semseg": [rng.integers(-1, 4, SIZE) for _ in range(count)],
        "depth": [rng.random((1, *SIZE), np.float32) for _ in range(count)],
        **changes,
    }
    kinds = {"image": ((3, *SIZE), "float32"), "semseg": (SIZE, "int64"), "depth": ((1, *SIZE), "float32")}
    features = {
        name: {2: datasets.Array2D, 3: datasets.Array3D}[len(shape)](shape, dtype)
        for name, (shape, dtype) in kinds.items()
        if name not in changes
    }
    if changes:
        return datasets.Dataset.from_dict(rows), rows
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features)), rows


def test_cells_are_what_files_are(tmp_path):
    unlabelled = {("a", "depth"), ("street/c", "semseg"), ("street/c", "normals")}
    stored, expected = of_folder(tmp_path / "folder", ("a", "b", "street/c"), unlabelled)
    columns = {**COLUMNS, "id": "name"}
    dataset = HubDataset(stored, TASKS, columns=columns, encodings=ENCODINGS)
    check(dataset, expected)
    folder = MultiTaskFolder(tmp_path / "folder", TASKS, encodings=ENCODINGS)
    assert [dataset.labels_of(i) for i in range(3)] == [folder.labels_of(i) for i in range(3)]
    stored.select([2, 0]).to_parquet(tmp_path / "part.parquet")
    part = HubDataset(
        tmp_path / "part.parquet", TASKS, columns=columns, encodings="depth=millimetres,normals=rgb_normals"
    )
    check(part, {name: expected[name] for name in ("street/c", "a")})


def test_files_that_are_only_named(tmp_path):
    own_data(tmp_path, ["a"])
    cells = {"image": [str(tmp_path / "images/a.png")], "semseg": [str(tmp_path / "semseg/a.png")]}
    stored = datasets.Dataset.from_dict(cells, features=datasets.Features(dict.fromkeys(cells, datasets.Image())))
    sample, same = HubDataset(stored, {"semseg": 4})[0], MultiTaskFolder(tmp_path, {"semseg": 4})[0]
    assert all(bool((sample[name] == same[name]).all()) for name in ("image", "semseg"))


def test_arrays_with_channels_first():
    stored, rows = arrays()
    dataset = HubDataset(stored, {"semseg": 4, "depth": 1}, encodings={"semseg": "void_minus_one"})
    for number, sample in enumerate(dataset):
        np.testing.assert_array_equal(sample["image"].numpy(), np.rint(rows["image"][number] * 255).astype(np.uint8))
        np.testing.assert_array_equal(
            sample["semseg"].numpy(), ignored(rows["semseg"][number], rows["semseg"][number] < 0)
        )
        np.testing.assert_array_equal(sample["depth"].numpy(), rows["depth"][number])
    last = [np.moveaxis(image, 0, -1).tolist() for image in rows["image"]]
    other = HubDataset(arrays(image=last)[0], {"depth": 1})
    assert bool((other[1]["image"] == dataset[1]["image"]).all())


def test_workers_and_a_picture_is_decoded_once(tmp_path, monkeypatch):
    stored, _ = of_folder(tmp_path, ("a", "b", "c"))
    dataset = HubDataset(stored, TASKS, columns=COLUMNS, encodings=ENCODINGS)
    loader = DataLoader(dataset, batch_size=3, collate_fn=dataset.collate, num_workers=2)
    batch = next(iter(loader))
    assert bool((batch["image"] == dataset.collate(list(dataset))["image"]).all())
    opened, decode = [], demt.data.files.open_picture
    spy = lambda *args: opened.append(args) or decode(*args)  # noqa: E731
    monkeypatch.setattr("demt.data.files.open_picture", spy)
    monkeypatch.setattr("demt.data.images.open_picture", spy)
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *args, **options: pytest.fail("decoded by datasets"))
    dataset[1]
    assert len(opened) == 1 + len(TASKS)


def test_recipes(tmp_path):
    stored, expected = of_folder(tmp_path / "folder", ("a", "b", "c", "d"))
    (tmp_path / "data").mkdir()
    stored.select([0, 1, 2]).to_parquet(tmp_path / "data/train-00000.parquet")
    stored.select([3]).to_parquet(tmp_path / "data/validation-00000.parquet")
    data = {
        "dataset": "hub",
        "root": str(tmp_path / "data"),
        "tasks": "semseg=4,depth",
        "columns": "image=rgb,semseg=segmentation",
        "encodings": "depth=millimetres",
        "augment": False,
    }
    recipe = recipe_from({"data": data}, ["data.train_split=train[1:]"])
    train, val = (open_dataset(recipe.data, split) for split in ("train", "val"))
    assert [len(train), len(val)] == [2, 1]
    np.testing.assert_array_equal(val[0]["depth"].numpy(), expected["d"]["depth"])
    with pytest.raises(ValueError, match=r"`data\.val_split` to name"):
        open_dataset(recipe_from({"data": data}, ["data.val_split=null"]).data, "val")


HUB = """
import json, sys
from demt.data import DataError, HubDataset
how = {"columns": {"image": "rgb", "semseg": "segmentation", "id": "name"}, "encodings": "depth=millimetres"}
dataset = HubDataset("org/rooms", "semseg=4,depth", split=sys.argv[1], revision="main", **how)
found = {sample["id"]: int(sample["depth"].sum()) for sample in dataset}
try:
    HubDataset("org/rooms", "semseg=4", split="no_split")
except DataError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def test_a_data_set_on_a_hub(tmp_path):
    """Over HTTP, in a process of its own: the Hub's address is read when its client is imported."""
    stored, expected = of_folder(tmp_path / "folder", ("a", "b", "c"))
    files = {"train": stored.select([0, 1]), "validation": stored.select([2])}
    for name, part in files.items():
        part.to_parquet(tmp_path / f"{name}.parquet")
    with HubServer() as server:
        server.add(
            "org/rooms", {f"data/{n}-00000-of-00001.parquet": (tmp_path / f"{n}.parquet").read_bytes() for n in files}
        )
        places = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        run = subprocess.run(
            [sys.executable, "-c", HUB, "validation"],
            capture_output=True,
            text=True,
            env={**os.environ, **places, "HF_HUB_DISABLE_XET": "1"},
            check=False,
        )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("error").startswith("'org/rooms' (no_split) cannot be opened")
    assert found == {"c": int(expected["c"]["depth"].sum())}


def one_line(run, *words, error=DataError):
    with pytest.raises(error) as raised:
        run()
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_bad_data_sets_are_one_line(tmp_path):
    stored, _ = arrays()
    tasks = {"semseg": 4, "depth": 1}
    one_line(lambda: HubDataset(stored, {"normals": 3}), "'normals'", "['depth', 'image', 'semseg']", "columns={")
    one_line(lambda: HubDataset(stored, tasks, columns={"image": "rgb"}), "'rgb' for images", "columns={'image'")
    one_line(lambda: HubDataset(stored, tasks, columns={"dept": "depth"}), "['dept']", error=ValueError)
    one_line(lambda: HubDataset(stored, {"no_task": 4}), "no_task", error=ValueError)
    one_line(lambda: HubDataset(stored, tasks, encodings={"depth": "miles"}), "'miles'", error=ValueError)
    one_line(lambda: HubDataset(stored.select([]), tasks), "no rows")
    one_line(lambda: HubDataset(stored.to_iterable_dataset(), tasks), "streaming=False", error=ValueError)
    one_line(lambda: HubDataset(datasets.DatasetDict(val=stored), tasks), "no split 'train'", "['val']")
    one_line(lambda: HubDataset(tmp_path / "no.parquet", tasks), "no.parquet' (train)")
    one_line(lambda: HubDataset(tmp_path, tasks), "No .parquet files")
    one_line(lambda: HubDataset("org/name", tasks), "'org/name' (train) cannot be opened")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no such file")
    one_line(lambda: HubDataset(tmp_path / "bad.parquet", tasks), "bad.parquet' (train) cannot be opened")
    stored.to_parquet(tmp_path / "good.parquet")
    one_line(lambda: HubDataset(tmp_path / "good.parquet", tasks, split="val"), '"val"', "train")
    twice = stored.add_column("key", ["a", "a"])
    one_line(lambda: HubDataset(twice, tasks, columns={"id": "key"}), "'key' has 'a' twice")


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("image", b"no picture", ["row 1, column image' cannot be read as an image"]),
        (
            "image",
            png(np.random.default_rng(0).integers(0, 9, (24, 32), np.uint8))[:90],
            ["row 1, column image' cannot be read as an image"],
        ),
        ("image", None, ["holds no image"]),
        ("semseg", png(np.full((24, 32), 9, np.uint8)), ["row 1, column semseg'", "9 is not a class"]),
        ("semseg", png(np.zeros((9, 9), np.uint8)), ["row 1, column semseg' is 9 x 9", "24 x 32"]),
        ("depth", png(np.zeros((24, 32), np.uint8)), ["column depth'", "16 bits"]),
    ],
)
def test_bad_cells_name_row_and_column(column, cell, words):
    image, semseg, depth = (np.zeros((24, 32), kind) for kind in (np.uint8, np.uint8, np.uint16))
    rows = {"image": [png(image)] * 2, "semseg": [png(semseg)] * 2, "depth": [png(depth)] * 2}
    rows[column] = [rows[column][0], cell]
    stored = datasets.Dataset.from_dict(rows)
    tasks, encodings = {"semseg": 4, "depth": 1}, {"depth": "millimetres"}
    dataset = HubDataset(stored, tasks, encodings=encodings)
    dataset[0]
    one_line(lambda: dataset[1], *words)
    with pytest.warns(RuntimeWarning, match=f"column {column}"):
        assert HubDataset(stored, tasks, encodings=encodings, on_error="skip")[1]["id"] == "0"


def test_ragged_lists_and_pictures_without_an_encoding():
    image = png(np.zeros((2, 2, 3), np.uint8))
    ragged = datasets.Dataset.from_dict({"image": [image], "semseg": [[[0, 1], [1]]]})
    one_line(lambda: HubDataset(ragged, {"semseg": 4})[0], "column semseg'", "lists of equal length")
    words = datasets.Dataset.from_dict({"image": [image], "semseg": ["road"]})
    one_line(lambda: HubDataset(words, {"semseg": 4})[0], "expected a picture or an array, got string")
    height = {"height": Task(name="height", channels=1, activation="identity", loss="l1", metric="rmse")}
    grey = datasets.Dataset.from_dict({"image": [image], "height": [png(np.zeros((2, 2), np.uint8))]})
    one_line(lambda: HubDataset(grey, height)[0], "declare encodings={'height'")
