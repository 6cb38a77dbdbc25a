import multiprocessing
import warnings

import numpy as np
import pytest
from scipy.ndimage import correlate
from skimage.morphology import thin

from demt.data import DataError, PASCALContext
from demt.data.pascal import NORMALS_VALID, PART_IDS, boundaries_of, cached
from tests.data import writers


def test_boundaries_are_the_thinned_laplacian():
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 460, (6, 8)), np.ones((7, 5), int)).astype(np.uint16)
    stencil = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    expected = thin(correlate(classes.astype(float), stencil, mode="mirror") != 0)
    assert np.array_equal(boundaries_of(classes), expected)
    assert not boundaries_of(np.full((5, 5), 65535, np.uint16)).any()


def test_tables():
    assert len(NORMALS_VALID) == 170
    assert {3, 4, 6, 427, 457} <= set(NORMALS_VALID.tolist())
    assert not {1, 2, 5, 7, 458} & set(NORMALS_VALID.tolist())
    assert len(PART_IDS) == 24
    assert [PART_IDS[name] for name in ("hair", "neck", "ruarm", "lhand", "luleg", "rfoot")] == [1, 2, 3, 4, 5, 6]


def test_a_changed_source_is_computed_anew_and_a_broken_cache_too(tmp_path):
    writers.pascal(tmp_path / "data")
    dataset = PASCALContext(tmp_path / "data", "val", tasks=["edge"], cache_dir=tmp_path / "cache")
    first = dataset[0]["edge"]
    kept = list((tmp_path / "cache").rglob("*.png"))
    assert len(kept) == 1
    changed = np.zeros(writers.SIZE, np.uint16)
    changed[:, 16:] = 3
    writers.mat(tmp_path / "data/pascal-context/trainval/2008_000002.mat", LabelMap=changed)
    second = dataset[0]["edge"]
    assert not np.array_equal(first, second)
    assert set(second[0].nonzero()[:, 1].tolist()) <= {15, 16}
    assert second[0].any(1).sum() >= writers.SIZE[0] - 1  # thinning may take an end
    for path in (tmp_path / "cache").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(dataset[0]["edge"], second)


def test_a_cache_that_cannot_be_written_is_no_hindrance(tmp_path):
    (tmp_path / "file").write_text("in the way")
    values = np.eye(3, dtype=np.uint8)
    with pytest.warns(RuntimeWarning, match="give `cache_dir`, or set HF_HOME"):
        assert np.array_equal(cached(tmp_path / "file", "name", b"source", lambda: values), values)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.warns(RuntimeWarning, match="full"):
        cached(tmp_path, "name", b"source", lambda: np.eye(3, dtype=np.uint8))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_place_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    writers.pascal(tmp_path / "data")
    PASCALContext(tmp_path / "data", "val", tasks=["edge"])[0]
    assert len(list((tmp_path / "demt/data").rglob("*.png"))) == 1


def _read_all(arguments):
    data, cache = arguments
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [sample["human_parts"].sum().item() for sample in PASCALContext(data, "val", cache_dir=cache)]


def test_many_workers_share_a_cache(tmp_path):
    expected = writers.pascal(tmp_path / "data")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        sums = pool.map(_read_all, [(tmp_path / "data", tmp_path / "cache")] * 8)
    assert sums == [[int(maps["human_parts"].sum()) for maps in expected.values()]] * 8
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 4


def test_files_that_are_built_otherwise_are_named(tmp_path):
    writers.pascal(tmp_path / "data")
    dataset = PASCALContext(tmp_path / "data", "val", cache_dir=tmp_path / "cache")
    parts = tmp_path / "data/human_parts/2008_000002.mat"
    for anno, message in [
        (np.ones((2, 2)), "structure of PASCAL-Part"),
        ({"imname": "x", "objects": writers.person({"tail": np.ones(writers.SIZE)})[None]}, "unknown name 'tail'"),
        ({"imname": "x", "objects": writers.person({"head": np.ones((3, 3))})[None]}, "structure of PASCAL-Part"),
    ]:
        writers.mat(parts, anno=anno)
        with pytest.raises(DataError, match=f"human_parts/2008_000002.mat.*{message}"):
            dataset[0]
    writers.pascal(tmp_path / "data")
    context = tmp_path / "data/pascal-context/trainval/2008_000002.mat"
    for values in ({"LabelMap": np.zeros((3, 3, 3))}, {"Other": np.zeros((3, 3))}):
        writers.mat(context, **values)
        with pytest.raises(DataError, match="expected a variable 'LabelMap'"):
            dataset[0]
    writers.mat(context, LabelMap=np.zeros((9, 9), np.uint16))
    with pytest.raises(DataError, match=r"normals_distill/2008_000002.png.*but .*trainval/2008_000002.mat"):
        dataset[0]
