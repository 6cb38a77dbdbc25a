"""Averages over mirrored and resized views, in the meaning of each task, and how sure predictions are."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import demt
from demt.tasks import DATASETS, Task

OWN = {
    "height": Task(name="height", channels=1),
    "flow": Task(name="flow", channels=2, activation="unit"),
    "marks": Task(name="marks", channels=2, activation="sigmoid"),
    "disparity": Task(name="disparity", channels=1, metric="depth", unit="px"),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = demt.create_model("demt_nano", tasks={**DATASETS["rooms"], **OWN}).eval()
    with torch.no_grad():
        # Random heads say much the same everywhere.
        for parameter in model.head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (12, 17, 3), np.uint8), np.ones((4, 4, 1), np.uint8))


def mirrored(prediction):
    values = {name: maps[..., ::-1].copy() for name, maps in prediction.items()}
    values["normals"][0] *= -1
    return values


@pytest.mark.parametrize("tta", ["flip", ["flip", 0.75, 1, 1.25], ["flip", 0.5]])
@pytest.mark.parametrize("max_size", [None, 50])
def test_a_mirrored_image_has_the_mirrored_prediction(tta, max_size, model, image):
    """To the last bit, also where images are shrunk and predictions brought back to their size."""
    straight = demt.predict(model, image, tta=tta, max_size=max_size, confidence=True)
    turned = demt.predict(model, image[:, ::-1].copy(), tta=tta, max_size=max_size, confidence=True)
    for name, values in mirrored(straight).items():
        np.testing.assert_array_equal(turned[name], values, err_msg=name)
    assert turned.confidence.keys() == straight.confidence.keys()
    for name, values in straight.confidence.items():
        np.testing.assert_array_equal(turned.confidence[name], values[..., ::-1], err_msg=name)
    assert not (demt.predict(model, image, max_size=max_size)["depth"] == straight["depth"]).all()


def outputs(model, image, size=None):
    """Softmax, sigmoid and so on of a model's logits at (48, 68), in float64 and without demt.predict."""
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None] / 255
    if size is not None:
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    cfg = model.pretrained_cfg
    x = (x - torch.tensor(cfg.mean)[:, None, None]) / torch.tensor(cfg.std)[:, None, None]
    with torch.no_grad():
        logits = {name: maps[0].double() for name, maps in model(x).items()}
    result = {}
    for name, maps in logits.items():
        full = F.interpolate(maps[None], (48, 68), mode="bilinear")[0]
        if name in ("semseg", "human_parts"):
            result[name] = F.interpolate(maps.softmax(0)[None], (48, 68), mode="bilinear")[0].numpy()
        elif name == "sal":
            result[name] = full.softmax(0)[1:].numpy()
        elif name in ("edge", "marks"):
            result[name] = full.sigmoid().numpy()
        elif name in ("normals", "flow"):
            result[name] = (full / full.norm(dim=0)).numpy()
        else:
            result[name] = full.numpy()
    return result


def test_each_task_is_averaged_in_its_meaning(model, image):
    views = []
    for scale, size in [(0.75, (36, 51)), (1, None), (1.25, (60, 85))]:
        for flip in (False, True):
            maps = outputs(model, image[:, ::-1] if flip else image, size)
            if flip:
                maps = {name: values[..., ::-1] for name, values in maps.items()}
                maps["normals"] = maps["normals"] * np.array([-1, 1, 1])[:, None, None]
            maps["depth"] = maps["depth"] * scale
            maps["disparity"] = maps["disparity"] / scale
            views.append(maps)
    mean = {name: np.mean([view[name] for view in views], axis=0) for name in views[0]}
    found = demt.predict(model, image, tta=["flip", 0.75, 1, 1.25], confidence=True)
    for name in ("semseg", "human_parts"):
        assert (found[name] == mean[name].argmax(0)).mean() > 0.999
        np.testing.assert_allclose(found.confidence[name], mean[name].max(0), rtol=1e-3, atol=1e-5)
    for name in ("sal", "edge", "depth", "height", "disparity"):
        np.testing.assert_allclose(found[name], mean[name][0], rtol=1e-3, atol=1e-4)
    for name in ("sal", "edge"):
        np.testing.assert_allclose(found.confidence[name], np.abs(2 * mean[name][0] - 1), atol=1e-3)
    np.testing.assert_allclose(found["marks"], mean["marks"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.confidence["marks"], np.abs(2 * mean["marks"] - 1), atol=1e-3)
    for name in ("normals", "flow"):
        length = np.linalg.norm(mean[name], axis=0)
        np.testing.assert_allclose(found[name] * length, mean[name], atol=1e-3)
    np.testing.assert_allclose(found.confidence["normals"], np.linalg.norm(mean["normals"], axis=0), atol=1e-3)
    for name in ("depth", "disparity"):
        relative = np.std([view[name][0] for view in views], axis=0) / np.abs(mean[name][0])
        np.testing.assert_allclose(found.confidence[name], 1 / (1 + relative), atol=2e-3)
    assert not {"height", "flow"} & set(found.confidence)
    assert all(values.min() >= 0 and values.max() <= 1 for values in found.confidence.values())


def test_confidence_of_one_view(model, image):
    plain, found = demt.predict(model, image), demt.predict(model, image, confidence=True)
    expected = outputs(model, image)
    assert plain.confidence == {}
    assert set(found.confidence) == {"semseg", "human_parts", "sal", "edge", "marks"}
    for name, values in plain.items():
        np.testing.assert_array_equal(found[name], values)
    chosen = np.take_along_axis(expected["semseg"], found["semseg"][None].astype(int), 0)[0]
    np.testing.assert_allclose(found.confidence["semseg"], chosen, rtol=1e-3)
    np.testing.assert_allclose(found.confidence["edge"], np.abs(2 * expected["edge"][0] - 1), atol=1e-4)
    assert found.confidence["marks"].shape == (2, 48, 68)


def test_one_view_is_the_plain_prediction(model, image):
    plain, found = demt.predict(model, image), demt.predict(model, image, tta=[1])
    for name in ("sal", "edge", "depth", "normals", "height", "marks"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5, atol=1e-6)


def test_several_images(model, image):
    other = image[::2, :, ::-1].copy()
    alone = [demt.predict(model, each, tta="flip") for each in (image, other, image)]
    for batch_size in (1, 3):
        for found, expected in zip(
            demt.predict(model, [image, other, image], tta="flip", batch_size=batch_size), alone
        ):
            for name, values in expected.items():
                if values.dtype == np.uint8:
                    assert (found[name] == values).mean() > 0.999
                else:
                    np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tta", ["mirror", [], [0.75, "rotate"], [0], [5], [True], [1, 1], 1.5, ["flip", "flip"]])
def test_wrong_views(tta, model, image):
    with pytest.raises(ValueError, match=r"`tta` to be 'flip', a list of different scales from 0\.1 to 4"):
        demt.predict(model, image, tta=tta)


@pytest.mark.parametrize("change", [{"tta": "flip"}, {"confidence": True}])
def test_tiles_have_neither(change, model, image):
    with pytest.raises(ValueError, match="`tile` cannot be combined with `tta`"):
        demt.predict(model, image, tile=32, **change)
