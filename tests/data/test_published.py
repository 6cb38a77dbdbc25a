import stat
import sys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

import demt.tasks
from demt.data import Cityscapes, DataError, Disparity, NYUDv2, PASCALContext, SurfaceNormals
from demt.data.published_layouts import LAYOUTS
from tests.data import writers

LOSSY = {("vandenhende", "image"), ("astmt", "image"), ("astmt", "normals")}


def check(sample, expected, lossy=()):
    assert sample.keys() == {*expected, "id"}
    assert isinstance(sample["image"], tv_tensors.Image)
    assert sample["image"].dtype == torch.uint8
    for name, values in expected.items():
        got = sample[name].numpy()
        assert got.shape == values.shape
        if name in lossy:
            worst, mean = (12, 3) if name == "image" else (0.1, 0.03)
            error = np.abs(got.astype(np.float64) - values)
            assert error.max() < worst
            assert error.mean() < mean
        else:
            np.testing.assert_array_equal(got, values.astype(got.dtype), err_msg=name)


@pytest.mark.parametrize("layout", ["atrc", "vandenhende", "astmt"])
def test_nyud(tmp_path, layout):
    expected = writers.nyud(tmp_path, layout)
    dataset = NYUDv2(tmp_path, "val")
    assert dataset.layout.name == layout
    assert list(dataset.tasks) == ["semseg", "depth", "normals", "edge"]
    assert dataset.ids == list(expected)
    for sample in dataset:
        check(sample, expected[sample["id"]], {name for where, name in LOSSY if where == layout})
    assert sample["semseg"].dtype == torch.uint8
    assert all(sample[name].dtype == torch.float32 for name in ("depth", "normals", "edge"))


@pytest.mark.parametrize("layout", ["raw", "mtan_7", "mtan_19", "libmtl"])
def test_cityscapes(tmp_path, layout):
    expected = writers.cityscapes(tmp_path, layout, count=12)
    dataset = Cityscapes(tmp_path, "train")
    assert dataset.layout.name == layout
    assert dataset.tasks["semseg"].channels == (19 if layout in ("raw", "mtan_19") else 7)
    assert dataset.ids == list(expected)  # 10 stands behind 9
    for sample in dataset:
        check(sample, expected[sample["id"]])
        assert isinstance(sample["depth"], Disparity)


def test_pascal(tmp_path):
    expected = writers.pascal(tmp_path / "data")
    dataset = PASCALContext(tmp_path / "data", "val", cache_dir=tmp_path / "cache")
    for again in range(2):
        for sample in dataset:
            edge = sample.pop("edge")
            check(sample, expected[sample["id"]], {"image"})
            # The region of the monitor starts at row 6 and column 10.
            inside = torch.zeros(writers.SIZE, dtype=torch.bool)
            inside[6:, 10:] = True
            boundary = edge[0].bool()
            assert 0 < boundary.sum() < 60
            rows, columns = boundary.nonzero().T
            assert (((rows - 6).abs() <= 1) | ((columns - 10).abs() <= 1)).all()
            assert (boundary[6:].any(1)).all(), "the boundary runs down the side"
        assert len([*(tmp_path / "cache").rglob("*.png")]) == 4 if not again else True


def test_the_table_agrees_with_the_facts():
    counts = {name: [tuple(layout.splits.values()) for layout in layouts] for name, layouts in LAYOUTS.items()}
    assert counts == {"nyud": [(795, 654)] * 3, "pascal": [(4998, 5105)], "cityscapes": [(2975, 500)] * 4}
    for name, layouts in LAYOUTS.items():
        for layout in layouts:
            assert list(layout.labels) == list(layout.tasks) == list(demt.tasks.DATASETS[name])


def test_a_subset_of_tasks_needs_only_its_files(tmp_path):
    writers.nyud(tmp_path, "atrc")
    for path in (tmp_path / "normals").iterdir():
        path.unlink()
    dataset = NYUDv2(tmp_path, "val", tasks=["edge", "semseg"])
    assert list(dataset.tasks) == ["semseg", "edge"]
    assert dataset[-1].keys() == {"image", "semseg", "edge", "id"}
    with pytest.raises(DataError, match=r"no known layout of 'nyud'.*atrc: no normals/0001.png"):
        NYUDv2(tmp_path, "val")


def test_layouts_that_cannot_be_told_apart_must_be_named(tmp_path):
    writers.cityscapes(tmp_path, "mtan_7")
    expected = writers.cityscapes(tmp_path, "mtan_19")
    with pytest.raises(DataError, match=r"fits the layouts \['mtan_7', 'mtan_19'\]"):
        Cityscapes(tmp_path)
    check(Cityscapes(tmp_path, layout="mtan_19")[1], expected["1"])


def test_arguments(tmp_path):
    writers.nyud(tmp_path, "atrc")
    for arguments, message in [
        ({"split": "test"}, r"`split` to be one of \['train', 'val'\]"),
        ({"tasks": ["sal"]}, r"`tasks` names \['sal'\], but NYUDv2 has"),
        ({"tasks": "semseg"}, "a list of names"),
        ({"layout": "mine"}, "'atrc', 'vandenhende', 'astmt'"),
        ({"on_error": "ignore"}, "`on_error`"),
        ({"transform": 3}, "`transform`"),
    ]:
        with pytest.raises(ValueError, match=message):
            NYUDv2(**{"root": tmp_path, "split": "val", **arguments})
    with pytest.raises(FileNotFoundError, match="No folder"):
        NYUDv2(tmp_path / "elsewhere", "val")
    with pytest.raises(DataError, match=r"train\.txt"):
        NYUDv2(tmp_path, "train")
    writers.lines(tmp_path / "gt_sets/val.txt", ["0001", "0002", "0001"])
    with pytest.raises(DataError, match="lists the id '0001' twice"):
        NYUDv2(tmp_path, "val")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_a_read_only_data_set_is_read_and_left_as_it_is(tmp_path):
    root = tmp_path / "data"
    expected = writers.pascal(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        dataset = PASCALContext(root, "val", cache_dir=tmp_path / "cache")
        samples = list(dataset)
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    assert [sample["id"] for sample in samples] == list(expected)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_normals_of_pictures_equal_the_published_formula(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    writers.nyud(tmp_path, "atrc", ids=["1"])
    for name in ("images", "normals"):
        writers.picture(tmp_path / f"{name}/1.png", np.stack([ramp] * 3, -1))
    sample = NYUDv2(tmp_path, "val", tasks=["normals"])[0]
    assert isinstance(sample["normals"], SurfaceNormals)
    expected = 2.0 * ramp.astype(np.float32) / 255.0 - 1.0
    expected[np.isin(ramp, (0, 127, 128))] = 255  # black, and the zero vector of 8 bits: no direction
    assert np.array_equal(sample["normals"][0].numpy(), expected.astype(np.float32))
