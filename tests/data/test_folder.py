import csv
import json
import unicodedata

import numpy as np
import pytest
import torch

from demt.data import DataError, Depth, Encoding, MultiTaskFolder, SurfaceNormals
from demt.tasks import Task
from tests.data import writers

TASKS = {"semseg": 4, "depth": 1, "normals": 3}
ENCODINGS = {"depth": "millimetres", "normals": "rgb_normals"}


def own_data(root, names=("a", "b", "street/c"), unlabelled=()):
    """Folders of one task each; `unlabelled` holds (name, task) pairs to leave out."""
    rng, expected = np.random.default_rng(0), {}
    for name in names:
        image = writers.smooth_image(rng)
        semseg = rng.integers(0, 4, writers.SIZE).astype(np.uint8)
        depth = rng.integers(0, 9000, writers.SIZE).astype(np.uint16)
        normals = rng.normal(size=(*writers.SIZE, 3))
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        colors = np.rint(127.5 * (normals + 1)).astype(np.uint8)
        writers.picture(root / f"images/{name}.png", image)
        labels = {
            "semseg": (f"semseg/{name}.png", semseg, semseg[None]),
            "depth": (f"depth/{name}.png", depth, writers.ignored(depth / np.float32(1000), depth == 0)),
            "normals": (
                f"normals/{name}.png",
                colors,
                writers.ignored(2 * colors.astype(np.float32) / 255 - 1, depth < 0),
            ),
        }
        expected[name] = {"image": image.transpose(2, 0, 1)}
        for task, (path, stored, label) in labels.items():
            if (name, task) not in unlabelled:
                writers.picture(root / path, stored)
                expected[name][task] = label
    return expected


def check(dataset, expected):
    assert dataset.ids == list(expected)
    for sample in dataset:
        wanted = expected[sample["id"]]
        assert sample.keys() == {*wanted, "id"}
        for name, values in wanted.items():
            np.testing.assert_array_equal(sample[name].numpy(), values.astype(sample[name].numpy().dtype))


def test_folders_with_partial_labels(tmp_path):
    expected = own_data(tmp_path, unlabelled={("a", "depth"), ("street/c", "semseg"), ("street/c", "normals")})
    (tmp_path / "images/.hidden.png").write_text("no image")
    dataset = MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS)
    check(dataset, expected)
    assert isinstance(dataset[1]["depth"], Depth)
    assert isinstance(dataset[1]["normals"], SurfaceNormals)
    batch = dataset.collate([dataset[0], dataset[2]])
    assert {name: tuple(batch[name].shape) for name in TASKS} == {
        "semseg": (2, 1, *writers.SIZE),
        "depth": (2, 1, *writers.SIZE),
        "normals": (2, 3, *writers.SIZE),
    }
    assert (batch["semseg"][1] == 255).all()
    assert (batch["depth"][0] == 255).all()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_index(tmp_path, ending):
    expected = own_data(tmp_path, unlabelled={("b", "depth")})
    rows = []
    for name in expected:
        row = {"image": f"images/{name}.png", "note": "x", "semseg": f"semseg/{name}.png", "depth": f"depth/{name}.png"}
        rows.append({**row, "depth": "" if name == "b" else row["depth"]})
        expected[name].pop("normals")
    path = tmp_path / f"list.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["image", "note", "depth", "semseg"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        rows[1].pop("depth")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {f"images/{name}": values for name, values in expected.items()}
    arguments = {"encodings": {"depth": "millimetres"}, "index": path.name}
    check(MultiTaskFolder(tmp_path, {"semseg": 4, "depth": 1}, **arguments), names)
    writers.lines(tmp_path / "train.txt", ["images/street/c", "images/a"])
    chosen = {name: names[name] for name in ["images/street/c", "images/a"]}
    for ids in ("train.txt", tmp_path / "train.txt", list(chosen)):
        check(MultiTaskFolder(tmp_path, {"semseg": 4, "depth": 1}, ids=ids, **arguments), chosen)


def test_arrays_need_no_encoding_but_pictures_of_values_do(tmp_path):
    own_data(tmp_path, names=["a"])
    height = Task(name="height", channels=1)
    writers.array(tmp_path / "height/a.npy", np.full(writers.SIZE, -3.5))
    depth = np.full(writers.SIZE, 2.0)
    depth[0], depth[1] = 0, np.nan
    (tmp_path / "depth/a.png").unlink()
    writers.array(tmp_path / "depth/a.npy", depth)
    sample = MultiTaskFolder(tmp_path, {"height": height, "depth": 1})[0]
    assert sample["height"].unique().tolist() == [-3.5]
    assert sample["depth"][0, :, 0].tolist() == [255, 255, *[2] * 22]
    with pytest.raises(DataError, match=r"normals/a.png.*declare encodings=\{'normals': \.\.\.\}, one of"):
        MultiTaskFolder(tmp_path, {"normals": 3})[0]


def test_errors_of_the_constructor(tmp_path):
    own_data(tmp_path)
    wide = Task(name="wide", channels=300, activation="argmax", loss="cross_entropy", metric="miou")
    other = Task(name="other", channels=1, ignore_index=-1)
    for tasks, arguments, message in [
        ({"wide": wide}, {}, "at most 255 classes"),
        ({"other": other}, {}, "expected `ignore_index` 255"),
        ({"depth": 1}, {"encodings": {"depth": "feet"}}, "Unknown encoding 'feet'.*'millimetres'"),
        ({"depth": 1}, {"encodings": {"semseg": "classes"}}, r"`encodings` names \['semseg'\]"),
        ({"depth": 1}, {"encodings": {"depth": Encoding(ids={1: 2})}}, "not classes"),
        ({"edge": 1}, {}, r"No folder .*edge"),
        ({"depth": 1}, {"images": "photos"}, r"No folder .*photos"),
        ({"depth": 1}, {"ids": ["a", "z"]}, "1 unknown samples, e.g. 'z'"),
        ({"depth": 1}, {"ids": []}, "at least one sample"),
        ({"depth": 1}, {"index": "list.csv"}, r"No file .*list\.csv"),
        ({"image": Task(name="image", channels=1)}, {"index": "i.csv"}, r"the names \['image'\]"),
    ]:
        writers.lines(tmp_path / "i.csv", ["image,depth", "images/a.png,depth/a.png"])
        with pytest.raises(ValueError, match=message):
            MultiTaskFolder(tmp_path, tasks, **arguments)
    writers.picture(tmp_path / "depth/a.tiff", np.zeros(writers.SIZE, np.uint16))
    with pytest.raises(DataError, match="two files for 'a'"):
        MultiTaskFolder(tmp_path, {"depth": 1})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "image,dephts\na.png,b.png", r"lacks \['depth'\]; it has \['dephts', 'image'\]"),
        ("x.csv", "image,depth\na.png,b.png\na.png,b.png", "row 2: a second row for 'a'"),
        ("x.csv", "image,depth\na.png,b.png,c.png", "row 1: expected"),
        ("x.csv", "image,depth\n,b.png", "row 1: expected an 'image'"),
        ("x.csv", "image,depth\n", "expected rows"),
        ("x.jsonl", '{"image": "a.png", "depth": 3}', "row 1: expected"),
        ("x.jsonl", '{"image": "a.png"', "not an index"),
        ("x.jsonl", "[1]", "expected rows"),
        ("x.txt", "a.png b.png", "expected a .csv or .jsonl"),
    ],
)
def test_errors_of_an_index(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        MultiTaskFolder(tmp_path, {"depth": 1}, index=name)


def test_labels_must_have_the_size_of_the_image(tmp_path):
    own_data(tmp_path)
    writers.picture(tmp_path / "semseg/b.png", np.zeros((24, 31), np.uint8))
    dataset = MultiTaskFolder(tmp_path, {"semseg": 4})
    with pytest.raises(DataError, match=r"semseg/b.png' is 24 x 31 .*but its image .*images/b.png' is 24 x 32"):
        dataset[1]


def test_broken_samples_raise_or_are_skipped(tmp_path):
    expected = own_data(tmp_path, names=[str(k) for k in range(5)])
    (tmp_path / "semseg/1.png").write_bytes((tmp_path / "semseg/1.png").read_bytes()[:60])
    writers.picture(tmp_path / "semseg/2.png", np.full(writers.SIZE, 4, np.uint8))
    (tmp_path / "images/4.png").write_bytes(b"")
    strict = MultiTaskFolder(tmp_path, {"semseg": 4})
    for index, file in {1: "semseg/1.png", 2: "semseg/2.png", 4: "images/4.png"}.items():
        with pytest.raises(DataError, match=file):
            strict[index]
    lenient = MultiTaskFolder(tmp_path, {"semseg": 4}, on_error="skip")
    with pytest.warns(RuntimeWarning, match=r"Skipped sample '\d'.*another takes its place") as warned:
        ids = [lenient[index]["id"] for index in range(5)]
    assert ids == ["0", "3", "3", "3", "0"]
    assert len(warned) == 3
    assert lenient.skipped.keys() == {"1", "2", "4"}
    assert [lenient[index]["id"] for index in (4, 2, 1)] == ["0", "3", "3"]
    assert torch.equal(lenient[2]["semseg"], torch.from_numpy(expected["3"]["semseg"]))
    for name in ("0", "3"):
        (tmp_path / f"images/{name}.png").unlink()
    with pytest.warns(RuntimeWarning), pytest.raises(DataError, match=r"No sample of 5 can be read"):
        lenient[0]


def test_mistakes_of_a_transform_are_never_skipped(tmp_path):
    own_data(tmp_path)

    def broken(sample):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        MultiTaskFolder(tmp_path, {"semseg": 4}, transform=broken, on_error="skip")[0]


def test_ids_in_another_unicode_form(tmp_path):
    composed, apart = (unicodedata.normalize(form, "stra\u00dfe \u00e9") for form in ("NFC", "NFD"))
    expected = own_data(tmp_path, names=(apart, "b"))
    (tmp_path / "some.txt").write_text(f"{composed}\nB\n", encoding="utf-8")
    for ids in ([composed, "B"], "some.txt"):
        check(MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS, ids=ids), expected)


@pytest.mark.parametrize("ids", [["a", "a"], [1], ["c"], ["a", "A"]])
def test_wrong_ids(tmp_path, ids):
    own_data(tmp_path, names=("a", "b"))
    with pytest.raises(DataError, match=r"`ids`"):
        MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS, ids=ids)


def test_an_index_of_nested_lists_is_one_line(tmp_path):
    (tmp_path / "index.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"index\.jsonl.*not an index"):
        MultiTaskFolder(tmp_path, TASKS, encodings=ENCODINGS, index="index.jsonl")
