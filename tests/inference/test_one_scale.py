"""One preparation of images: what a run reports is what `demt eval`, `demt.predict` and an exported file give."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.data import MultiTaskFolder, SyntheticRooms
from demt.data.images import read_image
from demt.export.write import export
from demt.train import load_recipe, train
from demt.train.run import make_metrics
from tests.conftest import needs_export
from tests.train.worker import TINY, quiet, reset

TASKS = {"semseg": 16, "normals": 3, "depth": 1}
IMAGES = (72, 112)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of own data: larger images than the training crops, one of them upright."""
    root = tmp_path_factory.mktemp("data")
    rooms = SyntheticRooms(IMAGES, 5, tasks=list(TASKS))
    for folder in ("images", *TASKS):
        (root / folder).mkdir()
    for index in range(len(rooms)):
        sample = {name: value.numpy() for name, value in rooms.read(index).items() if name != "id"}
        if index == 0:
            sample = {name: value[:, :, :60] for name, value in sample.items()}
        Image.fromarray(sample["image"].transpose(1, 2, 0)).save(root / f"images/{index}.png")
        Image.fromarray(sample["semseg"][0]).save(root / f"semseg/{index}.png")
        np.save(root / f"normals/{index}.npy", sample["normals"].transpose(1, 2, 0))
        np.save(root / f"depth/{index}.npy", sample["depth"][0])
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    reset()
    own = [
        "model.name=multitask_baseline",
        "data.dataset=folder",
        f"data.root={data}",
        "data.tasks={semseg: 16, normals: 3, depth: 1}",
        "steps=2",
    ]
    out = tmp_path_factory.mktemp("run") / "run"
    trained = train(load_recipe("rooms", [*TINY, *own, "data.eval_batch_size=1", f"out={out}"]), console=quiet())
    reset()
    return trained, out


def metrics_of(data, predict):
    """Metrics of what a function predicts on the images of a folder, from arrays at the images' own size."""
    samples = MultiTaskFolder(data, TASKS)
    metrics = make_metrics(samples.tasks, "folder", None)
    for index in range(len(samples)):
        found = predict(samples.files(index)["image"])
        for name, label in samples.read(index).items():
            if name in TASKS:
                values, label = torch.from_numpy(found[name])[None], label.as_subclass(torch.Tensor)[None]
                assert values.shape[-2:] == label.shape[-2:]
                metrics.metrics[name].update(values.long() if name == "semseg" else values, label)
    return metrics.compute()


def onnx_predictor(path):
    """The file run with NumPy and Pillow alone, as docs/export.md does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = {
        name: json.loads(value)
        for name, value in session.get_modelmeta().custom_metadata_map.items()
        if name in ("mean", "std", "max_size")
    }

    def resized(maps, size):
        pictures = [Image.fromarray(each).resize(size[::-1], Image.Resampling.BILINEAR) for each in maps]
        return np.stack([np.asarray(each) for each in pictures])

    def predict(file):
        photo = read_image(file).numpy()
        scale = min(about["max_size"] / max(photo.shape), 1)
        images = resized(photo, [round(side * scale) for side in photo.shape[1:]])
        mean, std = (np.array(about[key], np.float32)[:, None, None] for key in ("mean", "std"))
        outputs = session.run(list(TASKS), {"images": ((images - mean) / std)[None]})
        maps = {name: resized(logits[0], photo.shape[1:]) for name, logits in zip(TASKS, outputs)}
        return {"semseg": maps["semseg"].argmax(0), "normals": maps["normals"], "depth": maps["depth"][0]}

    return predict


def rounded(results):
    return {name: value for name, value in results.items() if "loss" not in name}


@needs_export
def test_four_equal_columns(data, run, tmp_path):
    pytest.importorskip("onnxruntime")
    trained, out = run
    report = rounded(trained.results)
    model = demt.create_model(f"local-dir:{out / 'last'}")
    assert model.pretrained_cfg.max_size == 64
    assert model.pretrained_cfg.input_size == (3, 48, 64)

    arguments = ["eval", out / "last", data, "--dataset", "folder", "--out", tmp_path / "eval.json"]
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "eval.json").read_text())["results"] == pytest.approx(report, rel=1e-4)

    assert metrics_of(data, lambda file: demt.predict(model, file)) == pytest.approx(report, rel=1e-3)
    assert metrics_of(data, lambda file: demt.predict(model, file, max_size=112)) != pytest.approx(report, rel=1e-3)

    export(model, tmp_path / "model.onnx")
    assert metrics_of(data, onnx_predictor(tmp_path / "model.onnx")) == pytest.approx(report, rel=1e-3)


def test_sizes_given_in_python_are_those_of_the_samples(tmp_path):
    """The recipe's `data.size` plays no part where data sets are given."""
    from demt.data.transforms import eval_transform, train_transform

    reset()
    sets = {
        "train_set": SyntheticRooms(IMAGES, 4, tasks=["depth"], transform=train_transform(size=(40, 56))),
        "val_set": SyntheticRooms(IMAGES, 1, seed=1, tasks=["depth"], transform=eval_transform()),
    }
    recipe = load_recipe("rooms", [*TINY, "data.tasks=[depth]", "steps=1", "optim.warmup=0", f"out={tmp_path / 'run'}"])
    trained = train(recipe, console=quiet(), **sets)
    saved = json.loads((tmp_path / "run/last/config.json").read_text())["pretrained_cfg"]
    assert (saved["input_size"], saved["max_size"]) == ([3, 40, 56], 56)
    label = sets["val_set"].read(0)["depth"].as_subclass(torch.Tensor)
    metrics = make_metrics(sets["val_set"].tasks, "rooms", None)
    image = sets["val_set"].read(0)["image"].as_subclass(torch.Tensor)
    metrics.metrics["depth"].update(torch.from_numpy(demt.predict(trained.model, image)["depth"])[None], label)
    assert trained.results["depth/rmse"] == pytest.approx(metrics.compute()["depth/rmse"], rel=1e-5)
    reset()


def test_scale_of_a_configuration():
    assert demt.PretrainedCfg(input_size=(3, 96, 128)).max_size == 128
    assert demt.PretrainedCfg.from_dict({"input_size": [3, 425, 560]}).max_size == 560  # written without the field
    own = demt.PretrainedCfg(max_size=None)
    assert demt.PretrainedCfg.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    for wrong in (-1, 2.5, True, "128"):
        with pytest.raises(ValueError, match="`max_size`, unless None, to be an integer"):
            demt.PretrainedCfg(max_size=wrong)


def test_named_variants_have_the_scale_of_their_data():
    from demt.registry import get_config

    names = {
        "degmix_swin_tiny.nyud": 560,
        "demt_swin_tiny.pascal": 512,
        "demt_swin_tiny.cityscapes": 1024,
        "demt_nano.rooms": 128,
        "demt_lite.photos": 384,
    }
    assert {name: get_config(name)[1].max_size for name in names} == names


def test_own_size_is_a_scale(monkeypatch):
    model = demt.create_model("demt_nano", tasks={"depth": 1}, pretrained_cfg_overlay={"max_size": None}).eval()
    seen = []
    monkeypatch.setattr(model, "forward", lambda x: seen.append(x.shape[-2:]) or {"depth": x[:, :1]})
    demt.predict(model, np.zeros((300, 500, 3), np.uint8))
    assert seen == [(300, 500)]
