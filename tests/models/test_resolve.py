"""What a name stands for: every way in finds the same weights, and what is no model says what was expected."""

import pytest
import torch

import demt
from demt.cli.load import load_model
from demt.factory import resolve, weights_of
from demt.models.variants import PACKAGED

TASKS = {"depth": 1}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = demt.create_model("demt_nano", tasks=TASKS)
    model.save_pretrained("runs/best")
    return model.state_dict()


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_every_way_into_a_folder_gives_its_weights(saved):
    for model in (
        demt.create_model("runs/best"),
        demt.create_model("local-dir:runs/best"),
        demt.create_model("runs/best", pretrained=True, pretrained_backbone=True),
        demt.create_model("demt_nano", checkpoint_path="runs/best", tasks=TASKS),
        demt.create_model("demt_nano", checkpoint_path="runs/best/model.safetensors", tasks=TASKS),
        demt.MultiTaskModel.from_pretrained("runs/best"),
        load_model("runs/best"),
        load_model("local-dir:runs/best"),
    ):
        assert same(model, saved)
    assert demt.create_model("runs/best").training
    assert not load_model("runs/best").training


def test_a_folder_does_not_take_a_models_name(saved, tmp_path):
    (tmp_path / "runs/best").rename("demt_nano")
    assert not same(demt.create_model("demt_nano", tasks=TASKS), saved)
    assert same(demt.create_model("./demt_nano"), saved)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "runs/nothing",
            FileNotFoundError,
            r"No folder at 'runs/nothing'; expected local-dir:PATH.*or hf-hub:org/name",
        ),
        ("own.safetensors", FileNotFoundError, "No folder at 'own.safetensors'; expected local-dir:PATH"),
        ("local-dir:runs/nothing", FileNotFoundError, "No model folder at 'runs/nothing'; expected local-dir:PATH"),
        ("runs", FileNotFoundError, "No config.json in 'runs'; expected local-dir:PATH, a folder that save_pretrained"),
        ("runs/best/config.json", ValueError, "is a file, expected a model's name: give it as checkpoint_path="),
    ],
)
@pytest.mark.parametrize("door", [demt.create_model, resolve, weights_of])
def test_paths_that_are_no_models(saved, door, name, error, message):
    with pytest.raises(error, match=message):
        door(name)


def test_where_weights_are(saved):
    name = "demt_nano.rooms"
    assert (weights_of(name).place, weights_of(name).address) == ("file", str(PACKAGED[name]))
    assert weights_of("demt_nano") is None
    assert weights_of("demt") is None
    assert (weights_of("runs/best").place, weights_of("runs/best").here) == ("folder", True)
    fetchable = weights_of("demt_swin_tiny")
    assert fetchable.place == "authors"


def test_named_weights_must_be_the_named_models(saved):
    with pytest.raises(ValueError, match="do not fit the model: missing"):
        demt.create_model("demt_nano", pretrained=True, checkpoint_path="runs/best/model.safetensors")


def test_a_registered_function_returns_a_model():
    @demt.register_model
    def not_a_model(pretrained=False, **kwargs):
        return torch.nn.Identity()

    with pytest.raises(ValueError, match=r"'not_a_model' to return a demt.MultiTaskModel, got Identity"):
        demt.create_model("not_a_model")
