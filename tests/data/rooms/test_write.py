"""Scenes written as the files of the published data sets, read by their readers."""

import numpy as np
import pytest

from demt.classes import CITYSCAPES_CLASSES, NYUD_CLASSES, PASCAL_CLASSES, ROOMS_CLASSES
from demt.data import Cityscapes, Disparity, NYUDv2, PASCALContext, SyntheticRooms
from demt.data.pascal import boundaries_of
from demt.data.rooms import formats

SPLITS = {"train": 2, "val": 3}


@pytest.fixture(scope="module")
def rooms():
    return SyntheticRooms(size=(38, 52), length=5, seed=12)


def mapped(semseg, column, classes):
    """Class ids (1, H, W) of another data set, through the table of names."""
    ids = np.array([classes.index(formats.CLASSES[name][column]) for name in ROOMS_CLASSES])
    return ids[semseg][None]


def check_image(read, written, lossy):
    difference = np.abs(read["image"].numpy().astype(int) - written["image"])
    assert difference.mean() < (6 if lossy else 1e-9)


def check_normals(read, written, tolerance):
    assert np.abs(read["normals"].numpy() - written["normals"]).mean() < tolerance


@pytest.mark.parametrize("layout", ["atrc", "vandenhende", "astmt"])
def test_nyud(rooms, tmp_path, layout):
    rooms.write(tmp_path / "a/b", "nyud", layout, splits=SPLITS)
    for split, start in (("train", 0), ("val", 2)):
        dataset = NYUDv2(tmp_path / "a/b", split)
        assert dataset.layout.name == layout
        assert len(dataset) == SPLITS[split]
        for index, sample in enumerate(dataset):
            maps = rooms.render(start + index)
            check_image(sample, maps, lossy=layout != "atrc")
            np.testing.assert_array_equal(sample["semseg"], mapped(maps["semseg"], 0, NYUD_CLASSES))
            np.testing.assert_array_equal(sample["depth"][0], maps["depth"])
            np.testing.assert_array_equal(sample["edge"][0], maps["edge"])
            if layout == "vandenhende":
                np.testing.assert_array_equal(sample["normals"], maps["normals"])
            else:
                check_normals(sample, maps, 0.003 if layout == "atrc" else 0.05)


def test_pascal(rooms, tmp_path):
    rooms.write(tmp_path / "p", "pascal", splits=SPLITS)
    dataset = PASCALContext(tmp_path / "p", "val", cache_dir=tmp_path / "cache")
    people = 0
    for index, sample in enumerate(dataset):
        maps = rooms.render(2 + index)
        check_image(sample, maps, lossy=True)
        np.testing.assert_array_equal(sample["semseg"], mapped(maps["semseg"], 1, PASCAL_CLASSES))
        np.testing.assert_array_equal(sample["sal"][0], maps["sal"])
        people += (maps["human_parts"] > 0).any()
        # An image without annotated people has no labels there.
        expected = maps["human_parts"] if (maps["human_parts"] > 0).any() else np.full_like(maps["human_parts"], 255)
        np.testing.assert_array_equal(sample["human_parts"][0], expected)
        context = np.array([formats.CLASSES[name][2] for name in ROOMS_CLASSES])[maps["semseg"]]
        np.testing.assert_array_equal(sample["edge"][0], boundaries_of(context))
        normals = sample["normals"].numpy()
        unlabelled = (normals == 255).all(0)
        # Of the classes in the table, cloth (80) and potted plants (308) are not among those that NYUD-v2 has, too.
        np.testing.assert_array_equal(unlabelled, np.isin(context, (80, 308)))
        assert np.abs(normals - maps["normals"])[:, ~unlabelled].max() < 0.005
    assert people


@pytest.mark.parametrize("layout", ["raw", "mtan_7", "mtan_19", "libmtl"])
def test_cityscapes(rooms, tmp_path, layout):
    rooms.write(tmp_path / "c", "cityscapes", layout, splits=SPLITS)
    dataset = Cityscapes(tmp_path / "c", "val")
    assert dataset.layout.name == layout
    for index, sample in enumerate(dataset):
        maps = rooms.render(2 + index)
        check_image(sample, maps, lossy=False)
        classes = sample["semseg"][0].numpy()
        for name, expected in {"wall": "wall", "floor": "road", "ceiling": "sky", "person": "person"}.items():
            found = classes[maps["semseg"] == ROOMS_CLASSES.index(name)]
            train_id = CITYSCAPES_CLASSES.index(expected)
            category = {"wall": 1, "road": 0, "sky": 4, "person": 5}[expected]
            assert (found == (train_id if dataset.tasks["semseg"].channels == 19 else category)).all()
        assert (classes[maps["semseg"] == ROOMS_CLASSES.index("object")] == 255).all()
        # Disparity times depth is one number: focal length times the distance of the cameras.
        assert isinstance(sample["depth"], Disparity)
        product = sample["depth"][0].numpy().astype(float) * maps["depth"]
        np.testing.assert_allclose(product, product.mean(), rtol=2e-2 if layout == "raw" else 1e-5)


def test_an_interrupted_run_leaves_nothing(rooms, tmp_path, monkeypatch):
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return formats.nyud_atrc(*arguments)

    monkeypatch.setitem(formats.FORMATS["nyud"], "atrc", fail)
    with pytest.raises(KeyboardInterrupt):
        rooms.write(tmp_path / "data", "nyud", splits=SPLITS)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_written_folders_may_be_empty_before(rooms, tmp_path):
    (tmp_path / "data").mkdir()
    rooms.write(tmp_path / "data", "nyud", splits={"val": 1})
    assert (tmp_path / "data/gt_sets/val.txt").read_text() == "000000\n"
    with pytest.raises(FileExistsError, match="not empty"):
        rooms.write(tmp_path / "data", "nyud", splits={"val": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kitti",), "`dataset`.*nyud.*got 'kitti'"),
        (("nyud", "raw"), "`layout` of 'nyud'.*vandenhende.*got 'raw'"),
        (("nyud", None, {"test": 1}), "`splits`"),
        (("nyud", None, {"val": 0}), "`splits`"),
        (("nyud", None, {}), "`splits`"),
        (("nyud", None, {"train": 4, "val": 2}), "asks for 6 scenes.*has 5"),
    ],
)
def test_errors(rooms, tmp_path, arguments, message):
    dataset, *further = arguments
    layout, splits = (*further, None, None)[:2]
    with pytest.raises(ValueError, match=message):
        rooms.write(tmp_path / "data", dataset, layout, splits={"val": 1} if splits is None else splits)
    assert list(tmp_path.iterdir()) == []
