"""Layouts into each other and back: the same bits where nothing must be lost, a measured loss where something is."""

import filecmp
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from demt.data import DataError, NYUDv2, SyntheticRooms
from demt.data.doctor import convert as module
from demt.data.doctor.convert import convert

SIZE = (38, 52)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    rooms = SyntheticRooms(size=SIZE, length=4, seed=12)
    for name, layout in [("nyud", "atrc"), ("nyud", "vandenhende"), ("cityscapes", "mtan_7"), ("cityscapes", "raw")]:
        rooms.write(folder / layout, name, layout, splits={"train": 1, "val": 3})
    rooms.write(folder / "pascal", "pascal", splits={"val": 1})
    # Pixels without labels, and none of them in the normals.
    for path in (folder / "atrc/segmentation").iterdir():
        values = np.array(Image.open(path))
        values[:3] = 0
        Image.fromarray(values).save(path)
    for layout in ("atrc", "vandenhende"):
        for path in (folder / layout / "depth").iterdir():
            values = np.load(path)
            values[5:9, :4] = 0
            np.save(path, values)
    return folder


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def same_bytes(one, other, names):
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def same_labels(one, other, split="val"):
    first, second = NYUDv2(one, split), NYUDv2(other, split)
    assert first.ids == second.ids
    for a, b in zip(first, second):
        for task in first.tasks:
            np.testing.assert_array_equal(a[task].numpy(), b[task].numpy())


def test_lossless_there_and_back_is_the_same_bytes(written, tmp_path):
    there = convert(written / "mtan_7", tmp_path / "there", "libmtl")
    back = convert(tmp_path / "there", tmp_path / "back", "mtan_7", dataset="cityscapes")
    names = files(written / "mtan_7")
    assert files(tmp_path / "back") == names
    assert same_bytes(written / "mtan_7", tmp_path / "back", names)
    assert files(tmp_path / "there") == sorted(name.replace("label_7", "label") for name in names)
    for change in (*there.values(), *back.values()):
        assert (change.copied, change.written, change.largest) == (4, 0, 0)


@pytest.mark.parametrize(("layout", "lossy"), [("vandenhende", {"image"}), ("astmt", {"image", "normals"})])
def test_nyud_there_and_back(written, tmp_path, layout, lossy):
    source = written / "atrc"
    there = convert(source, tmp_path / "there", layout)
    convert(tmp_path / "there", tmp_path / "back", "atrc")
    assert {name for name, change in there.items() if change.largest} == lossy
    names = files(source)
    assert files(tmp_path / "back") == names
    # Pictures of the same pixels and arrays of the same values come out as the same bytes.
    folders = {"image": "images"}
    changed = {folders.get(name, name) for name in lossy}
    assert same_bytes(source, tmp_path / "back", [name for name in names if name.split("/")[0] not in changed])
    for folder, name in (("images", "image"), ("normals", "normals")):
        for path in (source / folder).iterdir():
            stored, again = (
                np.array(Image.open(p)).astype(int) for p in (path, tmp_path / "back" / folder / path.name)
            )
            scale = 1 if name == "image" else 127.5
            assert np.abs(stored - again).max() <= there[name].largest * scale + 1e-3
    if layout == "vandenhende":
        same_labels(source, tmp_path / "there")


def test_stored_values_are_what_the_layouts_say(written, tmp_path):
    convert(written / "atrc", tmp_path / "v", "vandenhende")
    convert(written / "atrc", tmp_path / "a", "astmt")
    for id in ("000000", "000003"):
        classes = np.array(Image.open(written / f"atrc/segmentation/{id}.png"))
        depth = np.load(written / f"atrc/depth/{id}.npy")
        normals = np.array(Image.open(written / f"atrc/normals/{id}.png")).astype(np.float64) * 2 / 255 - 1
        edge = np.array(Image.open(written / f"atrc/edge/{id}.png"))
        assert (classes == 0).any()
        assert (depth == 0).any()
        assert np.array_equal(loadmat(tmp_path / f"a/segmentation/{id}.mat")["segmentation"], classes)
        assert np.array_equal(loadmat(tmp_path / f"a/depth/{id}.mat")["depth"], depth)
        np.testing.assert_allclose(np.load(tmp_path / f"v/normals/{id}.npy"), normals, atol=2e-7)
        assert np.array_equal(np.load(tmp_path / f"v/edge/{id}.npy") * 255, edge)
        assert same_bytes(written / "atrc", tmp_path / "v", [f"segmentation/{id}.png", f"depth/{id}.npy"])
        assert Image.open(tmp_path / f"v/images/{id}.jpg").format == "JPEG"


def test_the_loss_is_measured(written, tmp_path):
    changes = convert(written / "vandenhende", tmp_path / "new", "atrc")
    differences = []
    for path in (written / "vandenhende/normals").iterdir():
        stored = np.array(Image.open(tmp_path / f"new/normals/{path.stem}.png")).astype(np.float64) * 2 / 255 - 1
        differences.append(np.abs(stored - np.load(path)))
    assert changes["normals"].largest == pytest.approx(np.max(differences), abs=1e-6)
    assert changes["normals"].mean == pytest.approx(np.mean(differences), abs=1e-6)
    assert 0 < changes["normals"].largest <= 1 / 255 + 1e-6
    assert changes["image"].largest == changes["depth"].largest == changes["edge"].largest == 0


def test_some_tasks_and_splits(written, tmp_path):
    shutil.copytree(written / "atrc", tmp_path / "data")
    (tmp_path / "data/gt_sets/train.txt").unlink()
    assert convert(tmp_path / "data", tmp_path / "new", "vandenhende", tasks=["edge"]).keys() == {"image", "edge"}
    assert files(tmp_path / "new") == sorted(
        ["gt_sets/val.txt", *(f"{f}/00000{k}.{e}" for k in (1, 2, 3) for f, e in (("images", "jpg"), ("edge", "npy")))]
    )


def test_what_cannot_be_converted(written, tmp_path):
    data, target = tmp_path / "data", tmp_path / "new"
    shutil.copytree(written / "vandenhende", data)
    normals = np.load(data / "normals/000002.npy")
    normals[0, 0] = 0
    np.save(data / "normals/000002.npy", normals)
    for arguments, kind, message in [
        ((written / "raw", target, "mtan_7"), ValueError, "its semseg has 19 channels .* has 7"),
        (
            (written / "raw", target, "mtan_19"),
            ValueError,
            r"its depth has 1 channels \(unit px\), that .* \(unit none\)",
        ),
        ((written / "pascal", target, "atrc"), ValueError, "has the layout 'atrc' already"),
        ((written / "atrc", target, "raw"), ValueError, "Expected `layout` of 'nyud'"),
        ((data, target, "astmt"), DataError, r"000002\.npy' has pixels without a label, which \.jpg files"),
        ((data, data / "new", "atrc"), ValueError, "outside the data set"),
        ((data / "gone", target, "atrc"), FileNotFoundError, "No folder"),
        ((written, target, "atrc"), DataError, "no known layout"),
    ]:
        with pytest.raises(kind, match=message):
            convert(*arguments)
    (data / "depth/000000.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"000000\.npy"):
        convert(data, target, "astmt")
    (data / "gt_sets/val.txt").write_text("../data/000001\n")
    with pytest.raises(DataError, match=r"leads out of the data set"):
        convert(data, target, "astmt", source="vandenhende", dataset="nyud")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    target.mkdir()
    (target / "mine").write_text("x")
    with pytest.raises(FileExistsError):
        convert(written / "atrc", target, "astmt")
    assert files(target) == ["mine"]


def test_an_interrupted_run_leaves_nothing(written, tmp_path, monkeypatch):
    calls, encode = [], module.encode_file

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(module, "encode_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(written / "atrc", tmp_path / "new", "astmt")
    assert list(tmp_path.iterdir()) == []
