import pytest
import torch

from demt import Task
from demt.plugins import LOSSES, METRICS, Plugins
from demt.tasks import BUILTIN, DATASETS


def my_loss(logits, target, *, ignore_index):
    return logits.sum()


@pytest.mark.parametrize("task", [*BUILTIN.values(), *DATASETS["nyud"].values(), *DATASETS["cityscapes"].values()])
def test_dictionary_form_round_trips(task):
    assert Task.from_dict(task.to_dict()) == task


def test_functions_are_written_as_names():
    task = Task(name="height", channels=1, loss=my_loss, metric=torch.nn.Identity, loss_args={"a": 1})
    assert task.to_dict() == {
        "name": "height",
        "channels": 1,
        "loss": "my_loss",
        "loss_args": {"a": 1},
        "metric": "Identity",
    }
    hash(task)


def test_a_registered_name_goes_before_the_functions_own():
    LOSSES.register("my_registered_loss")(my_loss)
    assert Task(name="height", channels=1, loss=my_loss).to_dict()["loss"] == "my_registered_loss"


def test_every_builtin_loss_and_metric_has_a_function():
    import demt.losses
    import demt.metrics  # noqa: F401

    for task in BUILTIN.values():
        assert task.loss in LOSSES.names()
        assert task.metric in METRICS.names()


@pytest.mark.parametrize("field", ["loss", "metric"])
def test_loss_and_metric_are_names_or_callables(field):
    with pytest.raises(ValueError, match=f"`{field}` of task 'height' to be a name or a callable, got 3"):
        Task(name="height", channels=1, **{field: 3})


def test_a_name_is_given_once():
    plugins = Plugins("loss")
    plugins.register("a")(my_loss)
    plugins.register("a")(my_loss)
    with pytest.raises(ValueError, match="loss named 'a' exists"):
        plugins.register("a")(lambda: None)
