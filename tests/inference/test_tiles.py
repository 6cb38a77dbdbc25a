"""Tiles: exact where they must be, close where they can be, without seams, in bounded memory."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from skimage import data
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.inference.tiles import windows
from demt.tasks import Task

TASKS = {
    **demt.tasks.DATASETS["pascal"],
    "depth": 1,
    "flow": Task(name="flow", channels=2),
    "parts": Task(name="parts", channels=3, activation="sigmoid"),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return demt.create_model("demt_nano", tasks=TASKS, initial_offsets="zero").eval()


@pytest.fixture
def pointwise(model, monkeypatch):
    """The model with another function, of which a pixel's output depends on that pixel alone."""
    calls = []

    def forward(images):
        calls.append(tuple(images.shape))
        base = images.sum(1, keepdim=True)
        return {
            name: torch.cat([(base - k * 0.3) * (base + k) for k in range(task.channels)], 1)
            for name, task in model.tasks.items()
        }

    monkeypatch.setattr(model, "forward", forward)
    return model, calls


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("side", [1, 31, 64, 65, 100, 127, 128, 129, 500])
@pytest.mark.parametrize(
    ("tile", "overlap", "align"), [(64, 0, 1), (64, 16, 32), (70, 69, 32), (50, 20, 32), (1, 0, 32)]
)
def test_windows_cover_a_side_and_overlap(side, tile, overlap, align):
    found = windows(side, tile, overlap, align)
    assert found[0][0] == 0
    assert found[-1][1] == side
    assert all(0 < stop - start <= tile for start, stop in found)
    for (_, stop), (start, _) in itertools.pairwise(found):
        assert stop - start >= overlap
    if tile - overlap >= align:
        assert all(start % align == 0 for start, _ in found)
        assert all(stop - start == tile for start, stop in found[:-1])


@pytest.mark.parametrize("size", [(90, 200), (200, 90), (64, 64), (1, 130)])
@pytest.mark.parametrize(
    "options",
    [
        {"tile": 64},
        {"tile": 64, "overlap": 0},
        {"tile": (40, 96), "overlap": 7, "batch_size": 1},
        {"tile": (96, 40), "overlap": 39, "batch_size": 3},
    ],
)
def test_pointwise_predictions_do_not_depend_on_tiles(size, options, pointwise):
    model, calls = pointwise
    whole = demt.predict(model, image(*size), max_size=max(size))
    calls.clear()
    tiled = demt.predict(model, image(*size), **options)
    assert list(tiled) == list(whole)
    tile = options["tile"] if isinstance(options["tile"], tuple) else (options["tile"],) * 2
    assert all(height <= tile[0] and width <= tile[1] for *_, height, width in calls)
    assert max(batch for batch, *_ in calls) <= options.get("batch_size", 4)
    for task, values in whole.items():
        assert tiled[task].dtype == values.dtype
        assert tiled[task].flags.c_contiguous
        if model.tasks[task].activation in ("identity", "argmax"):
            np.testing.assert_array_equal(tiled[task], values)
        else:  # exponentials differ in the last bit by where in an array they stand
            np.testing.assert_allclose(tiled[task], values, atol=2e-7)


def test_blending_is_the_weighted_mean_of_meanings(pointwise, monkeypatch):
    """Two tiles that disagree: from one's value to the other's over the overlap, in a straight line."""
    model, _ = pointwise
    count = iter(range(2))

    def forward(images):
        first = next(count) == 0
        sides = images.shape[0], 1, *images.shape[2:]
        logits = {name: torch.zeros(sides[0], task.channels, *sides[2:]) for name, task in model.tasks.items()}
        logits["depth"] += 2.0 if first else 6.0
        logits["edge"] += 1e4 if first else -1.0
        logits["normals"][:, 0 if first else 1] = 100.0 if first else 0.1
        logits["semseg"][:, 3 if first else 5] = 2.0 if first else 50.0
        return logits

    monkeypatch.setattr(model, "forward", forward)
    prediction = demt.predict(model, image(64, 96), tile=64, overlap=32, batch_size=1)
    falling = 1 - (np.arange(32) + 0.5) / 32
    share = np.concatenate([np.ones(32), falling, np.zeros(32)])
    np.testing.assert_allclose(prediction["depth"], np.tile(2 * share + 6 * (1 - share), (64, 1)), rtol=1e-6)
    low = 1 / (1 + np.e)
    np.testing.assert_allclose(prediction["edge"], np.tile(share + low * (1 - share), (64, 1)), rtol=1e-5)
    expected = np.stack([share, 1 - share, 0 * share]) / np.hypot(share, 1 - share)
    np.testing.assert_allclose(prediction["normals"][:, 0], expected, atol=1e-6)
    assert set(prediction["semseg"][0]) == {3, 5}
    # Class 5 is certain, class 3 has a probability of e² / (e² + 20): it wins while its share of that is larger.
    certain = np.e**2 / (np.e**2 + 20)
    assert (prediction["semseg"][0] == np.where(share * certain > (1 - share) + share / (np.e**2 + 20), 3, 5)).all()


def test_image_smaller_than_the_tile_is_the_whole_image(model):
    whole = demt.predict(model, image(50, 70), max_size=100)
    tiled = demt.predict(model, [image(50, 70)], tile=100)[0]
    for task, values in whole.items():
        np.testing.assert_allclose(tiled[task], values, atol=1e-6)


def test_the_more_overlap_the_closer_to_the_whole_image():
    """Convolutions alone: what differs is what a tile does not see."""
    torch.manual_seed(0)
    baseline = demt.create_model("multitask_baseline_hrnet_w18", tasks={"semseg": 5, "depth": 1}).eval()
    photo = data.astronaut()[:128, :512]
    whole = demt.predict(baseline, photo, max_size=512)
    errors = []
    for overlap in (0, 127):
        tiled = demt.predict(baseline, photo, tile=(128, 256), overlap=overlap)
        errors.append(np.abs(tiled["depth"] - whole["depth"]).mean() / whole["depth"].std())
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < 0.2
    assert (tiled["semseg"] == whole["semseg"]).mean() > 0.97


def test_no_seams(model):
    """Differences between neighbouring columns are no larger where tiles begin or end than elsewhere."""
    photo = data.astronaut()[:128, :512]
    tiled = demt.predict(model, photo, tile=128, overlap=32)
    borders = sorted({edge for window in windows(512, 128, 32, 32) for edge in window} - {0, 512})
    for task in ("depth", "edge", "sal"):
        steps = np.abs(np.diff(tiled[task], axis=1)).mean(0)
        assert steps[[edge - 1 for edge in borders]].max() < 3 * np.median(steps)


def test_mode_and_weights_stay(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    demt.predict(model, image(70, 40), tile=64)
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "`tile` to be an integer >= 1 or .height, width., got 0"),
        ({"tile": (64,)}, "`tile` to be an integer"),
        ({"tile": "64"}, "`tile` to be an integer"),
        ({"tile": 64, "overlap": 64}, "`overlap` to be an integer from 0 to less than the tile, got 64"),
        ({"tile": 64, "overlap": -1}, "`overlap` to be an integer"),
        ({"overlap": 8}, "give both, got overlap=8"),
        ({"tile": 64, "max_size": 100}, "leave out max_size=100"),
    ],
)
def test_wrong_options(options, message, model):
    with pytest.raises(ValueError, match=message):
        demt.predict(model, image(70, 70), **options)


def test_command(tmp_path):
    from PIL import Image

    Image.fromarray(data.astronaut()[:150, :200]).save(tmp_path / "a.png")
    base = ["predict", str(tmp_path / "a.png"), "-m", "demt_nano", "--random-weights", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*base, "--tile", "96x128", "--overlap", "32"])
    assert result.exit_code == 0, result.output
    torch.manual_seed(0)
    network = demt.create_model("demt_nano").eval()
    expected = demt.predict(network, tmp_path / "a.png", tile=(96, 128), overlap=32)
    saved = np.load(tmp_path / "out" / "a.npz")
    for task, values in expected.items():
        np.testing.assert_allclose(saved[task], values, atol=1e-5)
    result = CliRunner().invoke(app, [*base, "--tile", "96x"])
    assert result.exit_code == 1
    assert "Expected --tile as HEIGHTxWIDTH" in result.stderr


MEASURE = """
import re, sys, numpy as np, torch, demt
from pathlib import Path

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

torch.set_num_threads(1)
model = demt.create_model("demt_nano", tasks={"semseg": 40, "depth": 1}).eval()
mix = {name: torch.randn(task.channels, 3, 1, 1) for name, task in model.tasks.items()}
model.forward = lambda x: {name: torch.nn.functional.conv2d(x, weight) for name, weight in mix.items()}
demt.predict(model, np.zeros((64, 64, 3), np.uint8))
for width, options in ((1024, {"tile": 256}), (2048, {"tile": 256}), (2048, {"max_size": 2048})):
    image = np.zeros((512, width, 3), np.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    demt.predict(model, image, batch_size=1, **options)
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the memory that Linux keeps count of")
def test_memory_hardly_grows_with_the_image():
    """In tiles, what grows are the image and its predictions; the whole image has 40 logits a pixel."""
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    narrow, wide, whole = map(float, run.stdout.splitlines())
    assert whole > 2 * max(narrow, wide)
