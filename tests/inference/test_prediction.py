"""A prediction is a dict, and knows its image, its pictures and its files."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

import demt
from demt.tasks import DATASETS, Task
from demt.viz import panel, task_picture


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return demt.create_model("demt_nano", tasks=DATASETS["rooms"]).eval()


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def prediction(model, image):
    return demt.predict(model, image)


def test_it_is_a_dict(prediction, model, tmp_path):
    assert isinstance(prediction, dict)
    assert isinstance(prediction, demt.Prediction)
    assert list(prediction) == list(prediction.tasks) == list(model.tasks)
    np.savez(tmp_path / "maps.npz", **prediction)
    with np.load(tmp_path / "maps.npz") as saved:
        assert all((saved[name] == values).all() for name, values in prediction.items())
    assert repr(prediction).startswith("Prediction(image 64 x 48, semseg uint8 (48, 64), human_parts")


@pytest.mark.parametrize("again", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_it_can_be_pickled_and_copied(again, image):
    # A loss that no pickle can hold must not keep a prediction from other processes.
    task = Task(name="height", channels=1, loss=lambda logits, target, *, ignore_index: logits.mean(), unit="m")
    model = demt.create_model("demt_nano", tasks={"semseg": 5, "height": task}).eval()
    prediction = demt.predict(model, image)
    twin = again(prediction)
    assert type(twin) is demt.Prediction
    assert twin.keys() == prediction.keys()
    assert all((twin[name] == values).all() for name, values in prediction.items())
    assert twin.panel().tobytes() == prediction.panel().tobytes()


def test_pictures_are_those_of_viz(prediction, model, image):
    expected = panel(image, dict(prediction), model.tasks)
    assert prediction.panel().tobytes() == expected.tobytes()
    with Image.open(io.BytesIO(prediction._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert shown.convert("RGB").tobytes() == expected.tobytes()
    for name, values in prediction.items():
        assert prediction.picture(name).tobytes() == task_picture(model.tasks[name], values).tobytes()
    with pytest.raises(ValueError, match=r"`task` to be one of \['semseg', .*\], got 'height'"):
        prediction.picture("height")


def test_show_opens_the_panel(prediction, monkeypatch):
    shown = []

    class Viewer(ImageShow.Viewer):
        def show(self, image, **options):
            shown.append(image)
            return True

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    prediction.show()
    assert shown[0].tobytes() == prediction.panel().tobytes()


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_images_of_other_channels_have_a_picture(channels):
    model = demt.create_model("demt_nano", in_chans=channels, tasks={"depth": 1}).eval()
    values = np.full((32, 40, channels), 0.25, np.float32)
    if channels == 4:
        values[..., 3] = 1
    shown = demt.predict(model, values).image
    assert (shown.mode, shown.size) == ("RGB", (40, 32))
    assert (np.asarray(shown) == 64).all()


def test_tiles_give_one_too(model, image):
    tiled = demt.predict(model, image, tile=32)
    assert isinstance(tiled, demt.Prediction)
    assert tiled.image.tobytes() == image.tobytes()


def test_saved_as_on_the_command_line(prediction, tmp_path):
    overview = prediction.save(tmp_path / "a" / "b", "walk")
    assert overview == tmp_path / "a/b/walk_panel.png"
    names = {f"walk_{task}.png" for task in prediction} | {"walk_panel.png", "walk.npz"}
    assert {path.name for path in overview.parent.iterdir()} == names
    with np.load(tmp_path / "a/b/walk.npz") as saved:
        np.testing.assert_array_equal(saved["depth"], prediction["depth"])
    prediction.save(overview.parent, "walk")


def test_other_files_are_never_replaced(prediction, tmp_path):
    other = tmp_path / "walk_semseg.png"
    Image.new("L", (2, 2)).save(other)
    before = other.read_bytes()
    with pytest.raises(FileExistsError, match=r"walk_semseg\.png' would be replaced, but is no file of `demt predict`"):
        prediction.save(tmp_path, "walk")
    assert other.read_bytes() == before
    assert list(tmp_path.iterdir()) == [other]
    for stem in ("", "a/b", 5):
        with pytest.raises(ValueError, match="`stem` to be a name without folders"):
            prediction.save(tmp_path, stem)
