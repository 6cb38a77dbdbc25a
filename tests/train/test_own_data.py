"""Own data: image channels of the model, tasks as text, the scale of training, and what is said of the labels."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from demt.cli import app
from demt.train import open_dataset, recipe_from
from tests.train.worker import quiet, reset, run, tiny


def write(root, modes, size=(48, 64)):
    for folder in ("images", "semseg", "depth"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        Image.new(modes, size[::-1], 100).save(root / f"images/{number}.png")
        Image.fromarray(np.full(size, number, np.uint8)).save(root / f"semseg/{number}.png")
    depth = np.full(size, 2, np.float32)
    depth[: size[0] // 2] = np.nan
    np.save(root / "depth/0.npy", depth)


def own(root, *changes):
    data = ["model.name=degmix", "data.dataset=folder", f"data.root={root}", "data.tasks=semseg=5,depth"]
    return tiny(root / "run", *data, "steps=1", "optim.warmup=0", "batch_size=2", *changes)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_images_have_the_channels_of_the_model(tmp_path, mode, channels):
    write(tmp_path, mode)
    console = quiet()
    trained = run(own(tmp_path, f"model.args.in_chans={channels}", "data.in_memory=true"), console=console)
    assert trained.model.pretrained_cfg.input_size == (channels, 48, 64)
    printed = console.file.getvalue()
    assert "Training, labels of semseg: 2 of 2 images, 100.0% of their pixels" in printed
    reset()
    arguments = ["eval", tmp_path / "run/last", tmp_path, "--dataset", "folder", "--out", tmp_path / "results.json"]
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert found == pytest.approx({name: trained.results[name] for name in found}, rel=1e-4)
    assert "Training, labels of depth: 1 of 2 images, 50.0% of their pixels" in printed


def test_tasks_and_encodings_as_text(tmp_path):
    write(tmp_path, "RGB")
    recipe = own(tmp_path, "data.tasks=semseg=5,height=1:values", "data.encodings=height=metres")
    assert recipe.data.encodings == {"height": "metres"}
    assert recipe_from({"data": {"encodings": "depth=metres"}}).data.encodings == {"depth": "metres"}
    (tmp_path / "depth").rename(tmp_path / "height")
    tasks = open_dataset(own(tmp_path, "data.tasks=semseg=5,height=1:values").data, "val").tasks
    assert {name: (task.channels, task.metric) for name, task in tasks.items()} == {
        "semseg": (5, "miou"),
        "height": (1, "rmse"),
    }
    with pytest.raises(ValueError, match="semseg=5"):
        open_dataset(own(tmp_path, "data.tasks=semseg").data, "val")


def test_max_size_shrinks_images_with_their_labels(tmp_path):
    """Without augmentation a training sample is the image at half its size; evaluation keeps the labels' size."""
    write(tmp_path, "RGB", (96, 128))
    data = own(tmp_path, "data.max_size=64", "data.augment=false").data
    sample = open_dataset(data, "train")[1]
    assert {name: tuple(sample[name].shape) for name in ("image", "semseg")} == {
        "image": (3, 48, 64),
        "semseg": (1, 48, 64),
    }
    assert bool((sample["semseg"] == 1).all())
    assert open_dataset(data, "val")[1]["semseg"].shape[-2:] == (96, 128)


def test_parquet(tmp_path, monkeypatch):
    """A run on the files of folders in the cells of a Parquet file: the same numbers."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path, "RGB")
    depth = np.load(tmp_path / "depth/0.npy")
    rows = {
        "picture": [str(tmp_path / f"images/{number}.png") for number in range(2)],
        "semseg": [str(tmp_path / f"semseg/{number}.png") for number in range(2)],
        "depth": [depth, None],
    }
    features = {"picture": datasets.Image(), "semseg": datasets.Image(), "depth": datasets.Array2D((48, 64), "float32")}
    stored = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    stored.to_parquet(tmp_path / "rooms.parquet")
    hub = ["data.dataset=hub", f"data.root={tmp_path / 'rooms.parquet'}", "data.columns=image=picture"]
    console = quiet()
    trained = run(own(tmp_path, *hub, "data.val_split=train[1:]"), console=console)
    assert "Training, labels of depth: 1 of 2 images, 50.0% of their pixels" in console.file.getvalue()
    reset()
    folder = run(own(tmp_path, "data.val_ids=['1']", f"out={tmp_path / 'other'}"), console=quiet())
    assert trained.results == folder.results
