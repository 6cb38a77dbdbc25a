"""Shards of WebDataset in and out, read back with WebDataset itself."""

import io
import os
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

import demt
from demt.inference.folder import predict_folder
from demt.inference.shards import mark_of_shard


@pytest.fixture(scope="module")
def model():
    return demt.create_model("multitask_baseline_nano.rooms", pretrained=True).eval()


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path):
    """Two shards of three pictures, of two sizes, one of them broken, with files that belong to them."""
    rng = np.random.default_rng(0)
    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{number}.tar"), encoder=False) as writer:
            for place, size in enumerate([(24, 32), (32, 24), (24, 32)]):
                picture = png(rng.integers(0, 255, (*size, 3)).astype(np.uint8))
                broken = b"broken" if (number, place) == (1, 0) else picture
                writer.write({"__key__": f"a/{number}{place}", "json": b"{}", "mask.png": b"no", "png": broken})
    return tmp_path


def samples(path):
    return {sample["__key__"]: sample for sample in webdataset.WebDataset(str(path), shardshuffle=False)}


def test_a_shard_becomes_a_shard_of_what_predict_gives(model, shards):
    found = list(predict_folder(model, f"{shards}/*.tar", shards / "out", save=["arrays", "pictures", "png16"]))
    (broken,) = [saved for saved in found if saved.error]
    assert str(broken.picture.path) == str(shards / "1.tar/a/10.png")
    assert "a/10.png' cannot be read as an image" in str(broken.error)
    assert sorted(path.name for path in (shards / "out").iterdir()) == ["0.tar", "1.tar"]
    given = {**samples(shards / "0.tar"), **samples(shards / "1.tar")}
    written = {**samples(shards / "out/0.tar"), **samples(shards / "out/1.tar")}
    assert set(written) == set(given) - {"a/10"}
    for key, sample in written.items():
        expected = demt.predict(model, np.asarray(Image.open(io.BytesIO(given[key]["png"]))))
        values = np.load(io.BytesIO(sample["npz"]))
        np.testing.assert_allclose(values["depth"], expected["depth"], atol=1e-4)
        assert np.array_equal(Image.open(io.BytesIO(sample["semseg.png"])), values["semseg"])
        grey = np.asarray(Image.open(io.BytesIO(sample["depth.16bit.png"])))
        assert np.array_equal(grey, np.rint(1000 * values["depth"].astype(float)))


def test_repeated_shards_are_kept_and_have_the_same_bytes(model, shards):
    def run(folder):
        return [saved.is_new for saved in predict_folder(model, f"{shards}/*.tar", shards / folder, save=["arrays"])]

    assert run("out") == [True] * 6
    assert run("out") == [False] * 2
    first = {name: (shards / f"out/{name}").read_bytes() for name in ("0.tar", "1.tar")}
    (shards / "out/1.tar").unlink()
    assert run("out") == [False, True, True, True]
    assert {name: (shards / f"out/{name}").read_bytes() for name in first} == first
    parts = [
        list(predict_folder(model, f"{shards}/*.tar", shards / "two", save=["arrays"], process=(rank, 2)))
        for rank in range(2)
    ]
    assert [len(part) for part in parts] == [3, 3]
    assert {name: (shards / f"two/{name}").read_bytes() for name in first} == first
    os.utime(shards / "0.tar", (2e9, 2e9))
    assert run("out") == [False, True, True, True]


def test_damaged_shards_leave_no_file(model, shards):
    whole = (shards / "0.tar").read_bytes()
    # Between two files, and within one.
    (shards / "cut.tar").write_bytes(whole[:1024])
    (shards / "inside.tar").write_bytes(whole[:-12001])
    (shards / "text.tar").write_text("text")
    with tarfile.open(shards / "none.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"))
    with webdataset.TarWriter(str(shards / "all.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", "jpg": b"broken"})
    names = ["cut.tar", "inside.tar", "text.tar", "none.tar", "gone.tar", "all.tar"]
    found = list(predict_folder(model, [shards / name for name in names], shards / "out", save=["arrays"]))
    errors = {saved.picture.path.name: str(saved.error) for saved in found if saved.error}
    for name in ("cut.tar", "inside.tar", "text.tar"):
        assert f"{name}' cannot be read as a shard: it is cut off, or not an archive" in errors[name]
    assert "none.tar' has no picture for 'a'" in errors["none.tar"]
    assert "No shard at" in errors["gone.tar"]
    assert "all.tar' has no picture that can be read" in errors["all.tar"]
    assert all(saved.error for saved in found)
    assert not list((shards / "out").rglob("*.tar"))


def test_shards_of_others_are_not_replaced(model, shards):
    assert mark_of_shard(shards / "0.tar") is None
    with pytest.raises(FileExistsError, match=r"0.tar' would be replaced, but is no file of `demt predict`"):
        predict_folder(model, shards / "0.tar", shards)


def test_names_are_never_run_as_commands(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (saved,) = predict_folder(model, "pipe:touch made.tar", "out")
    assert saved.error is not None
    assert not (tmp_path / "made.tar").exists()
