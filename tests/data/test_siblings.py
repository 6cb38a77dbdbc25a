"""Labels that would be read as something they are not, and arrays that take more than pictures may."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from demt.data import DataError, MultiTaskFolder
from demt.data.files import MAX_PIXELS


def one(root, task, channels, values, encodings=None):
    (root / "images").mkdir()
    (root / task).mkdir()
    Image.new("RGB", (8, 8)).save(root / "images/a.png")
    np.save(root / task / "a.npy", values)
    return MultiTaskFolder(root, {task: channels}, encodings=encodings or {})


def test_whole_numbers_are_no_metres_without_a_word(tmp_path):
    values = np.full((8, 8), 1500, np.int32)
    with pytest.raises(DataError, match=r"whole numbers up to 1500: declare encodings=\{'depth': 'millimetres'\}"):
        one(tmp_path, "depth", 1, values)[0]
    for encoding, expected in (("millimetres", 1.5), ("metres", 1500)):
        assert MultiTaskFolder(tmp_path, {"depth": 1}, encodings={"depth": encoding})[0]["depth"].max() == expected
    np.save(tmp_path / "depth/a.npy", np.full((8, 8), 3))
    assert MultiTaskFolder(tmp_path, {"depth": 1})[0]["depth"].max() == 3


def test_arrays_of_more_pixels_than_pictures_are_not_unpacked(tmp_path):
    one(tmp_path, "depth", 1, np.ones((8, 8)))
    (tmp_path / "depth/a.npy").unlink()
    side = 12000
    assert side**2 > MAX_PIXELS
    archive = zipfile.ZipFile(tmp_path / "depth/a.npz", "w", zipfile.ZIP_DEFLATED)
    with archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (side, side)})
        for _ in range(side):
            file.write(bytes(side))
    dataset = MultiTaskFolder(tmp_path, {"depth": 1})
    tracemalloc.start()
    with pytest.raises(DataError, match="has 144000000 pixels; arrays of at most"):
        dataset[0]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_configs_with_a_byte_order_mark_load(tmp_path):
    import demt

    model = demt.create_model("multitask_baseline_nano.rooms", pretrained=True)
    model.save_pretrained(tmp_path / "model")
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text())), encoding="utf-8-sig")
    assert list(demt.create_model(f"local-dir:{tmp_path / 'model'}").tasks) == list(model.tasks)
