import pytest
import torch

from demt.classes import CITYSCAPES_PALETTE, NYUD_CLASSES, voc_palette
from demt.tasks import BUILTIN, DATASETS, RESERVED, Task, resolve_tasks


def test_channels_and_order_of_the_data_sets():
    rooms = {"semseg": 16, "human_parts": 7, "sal": 2, "normals": 3, "depth": 1, "edge": 1}
    channels = {name: {t.name: t.channels for t in tasks.values()} for name, tasks in DATASETS.items()}
    assert channels == {
        "nyud": {"semseg": 40, "depth": 1, "normals": 3, "edge": 1},
        "pascal": {"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1},
        "cityscapes": {"semseg": 19, "depth": 1},
        **dict.fromkeys(("rooms", "photos"), rooms),
    }
    assert list(channels["pascal"]) == ["semseg", "human_parts", "sal", "normals", "edge"]


def test_classes_and_colours_are_complete_and_distinct():
    for tasks in DATASETS.values():
        for task in tasks.values():
            if task.activation == "argmax":
                assert len(set(task.classes)) == len(set(task.palette)) == task.channels
    assert (NYUD_CLASSES[0], NYUD_CLASSES[-1]) == ("wall", "other prop")
    assert voc_palette(256)[255] == (224, 224, 192)
    assert CITYSCAPES_PALETTE[0] == (128, 64, 128)


def test_predictions():
    logits = torch.randn(2, 3, 4, 5)
    assert torch.equal(Task(name="t", channels=3, activation="argmax").predict(logits), logits.argmax(1))
    normals = BUILTIN["normals"].predict(logits)
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(2, 4, 5))
    assert torch.isfinite(BUILTIN["normals"].predict(torch.zeros(1, 3, 2, 2))).all()
    torch.testing.assert_close(BUILTIN["edge"].predict(logits[:, :1]), logits[:, 0].sigmoid())
    torch.testing.assert_close(
        BUILTIN["sal"].predict(logits[:, :2]), (logits[:, 1] - logits[:, 0]).sigmoid(), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(BUILTIN["depth"].predict(logits[:, :1]), logits[:, 0])
    assert Task(name="flow", channels=2).predict(logits[:, :2]).shape == (2, 2, 4, 5)


def test_round_trip():
    for task in [*BUILTIN.values(), *DATASETS["cityscapes"].values(), Task(name="t", channels=2, classes=("a", "b"))]:
        assert Task.from_dict(task.to_dict()) == task


def test_resolving():
    tasks = resolve_tasks({"semseg": 40, "edge": 1, "height": Task(name="height", channels=1, unit="m")})
    assert tasks["semseg"].classes == NYUD_CLASSES
    assert tasks["height"].unit == "m"
    assert resolve_tasks({"semseg": 150})["semseg"].classes is None
    assert resolve_tasks({"semseg": 16})["semseg"].classes is None
    assert resolve_tasks({"height": {"channels": 1}}) == {"height": Task(name="height", channels=1)}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("kitti", "one of \\['cityscapes', 'nyud', 'pascal', 'photos', 'rooms'\\].*got 'kitti'"),
        ({}, "non-empty mapping"),
        ({"height": 1}, "Unknown task 'height'.*demt.Task"),
        ({"depth": 2}, "'depth' has 1 channels, got 2"),
        ({"semseg": 0}, "integer from 1 to 8192, got 0"),
        ({"height": {"channels": 1, "colour": 3}}, "Unknown keys \\['colour'\\]"),
        ({"a": Task(name="b", channels=1)}, "use the same name"),
        ({"a b": {"channels": 1}}, "Python identifier"),
        ({"a": {"channels": 1, "activation": "relu"}}, "`activation`.*got 'relu'"),
        ({"a": {"channels": 3, "classes": ["x"]}}, "`classes` of task 'a' to have 3 entries"),
        ({"a": {"channels": 3, "activation": "foreground"}}, "needs 2 channels"),
    ],
)
def test_errors(tasks, message):
    with pytest.raises(ValueError, match=message):
        resolve_tasks(tasks)


def test_reserved_names_are_those_of_module_dicts():
    public = {name for name in dir(torch.nn.ModuleDict()) if not name.startswith("_")}
    assert public <= RESERVED
    for name in ("items", "training", "_modules", "__class__"):
        with pytest.raises(ValueError, match=r"which torch\.nn\.ModuleDict uses"):
            Task(name=name, channels=1)
