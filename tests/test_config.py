"""Configurations: every field has a type and a range, checked before anything is built."""

import dataclasses

import pytest

from demt.config import ModelConfig, PretrainedCfg, each_channel
from demt.tasks import Task

MODEL = {"family": "demt", "backbone": "resnet18", "tasks": {"semseg": 5, "depth": 1}}
HUGE = 10**400


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("family", ["demt"], "`family` to be one of"),
        ("backbone", 3, "`backbone` to be a text of at most 200 printable characters, got 3"),
        ("backbone", "x" * 201, "`backbone` to be a text of at most 200"),
        ("backbone", "\x1b[2J", r"`backbone` to be a text .*got '\\x1b\[2J'"),
        ("tasks", {f"t{i}": {"channels": 1} for i in range(65)}, "at most 64 `tasks`, got 65"),
        ("in_chans", True, "`in_chans` to be an integer from 1 to 8192, got True"),
        ("in_chans", 3.0, "`in_chans` to be an integer from 1 to 8192, got 3.0"),
        ("width", None, "`width` to be an integer from 1 to 8192, got None"),
        ("depth", 8192, "`depth` to be an integer from 0 to 64, got 8192"),
        ("heads", 0, "`heads` to be an integer from 1 to 1024, got 0"),
        ("offset_groups", -1, "`offset_groups` to be an integer from 1 to 8192"),
        ("head_width", "64", "`head_width` to be an integer from 1 to 8192, got '64'"),
        ("neck", 1, "`neck` to be one of"),
        ("initial_offsets", [], "`initial_offsets` to be one of"),
        ("pre_norm", "false", "`pre_norm` to be true or false, got 'false'"),
        ("gating", 1, "`gating` to be true or false, got 1"),
        ("backbone_kwargs", [1], "`backbone_kwargs` to be a mapping of names to values"),
        ("backbone_kwargs", {1: 1}, "a key of `backbone_kwargs` to be a text"),
        ("backbone_kwargs", {"depths": [HUGE]}, "'depths' to be a number from -8192 to 8192"),
        ("backbone_kwargs", {"drop": float("nan")}, "'drop' to be a number .*got nan"),
        ("backbone_kwargs", {"a": [[[[[1]]]]]}, "'a' to be a number, a text or a short list"),
        ("backbone_kwargs", {"a": [1] * 1001}, "'a' to be a number, a text or a short list"),
        ("backbone_kwargs", {"norm": print}, "'norm' to be a number, a text or a short list"),
        ("backbone_kwargs", {"device": "meta"}, "`backbone_kwargs` without .'device'."),
        ("backbone_kwargs", {"dtype": "float16", "scriptable": True}, "without .'dtype', 'scriptable'."),
    ],
)
def test_fields_of_a_model(field, wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**{**MODEL, field: wrong})
    assert len(str(error.value)) < 300


def test_numbers_that_python_does_not_write():
    with pytest.raises(ValueError, match=r"`in_chans` .*got a value of type int"):
        ModelConfig(**MODEL, in_chans=10**5000)


def test_every_field_of_a_model_is_checked():
    required = {field.name for field in dataclasses.fields(ModelConfig)}
    for name in required:
        with pytest.raises(ValueError, match=r"Expected|non-empty"):
            ModelConfig(**{**MODEL, name: object()})


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("name", "a" * 101, "Python identifier"),
        ("name", None, "Python identifier, got None"),
        ("channels", 8193, "`channels` of task 'a' to be an integer from 1 to 8192, got 8193"),
        ("activation", ["argmax"], "`activation` of task 'a' to be one of"),
        ("loss", 3, "`loss` of task 'a' to be a name or a callable"),
        ("metric", "a\nb", "`metric` of task 'a' to be a text"),
        ("loss_args", [1], "`loss_args` of task 'a' to be a mapping"),
        ("loss_weight", float("inf"), "`loss_weight` of task 'a' to be a number from 0 to 1e.09, got inf"),
        ("loss_weight", -1, "`loss_weight` of task 'a' to be a number from 0"),
        ("ignore_index", 255.0, "`ignore_index` of task 'a' to be an integer"),
        ("foreground_only", "yes", "`foreground_only` of task 'a' to be true or false"),
        ("classes", "ab", "`classes` of task 'a' to be a list, got 'ab'"),
        ("classes", [1, 2], "`classes` of task 'a' to be a text .*got 1"),
        ("classes", 2, "`classes` of task 'a' to be a list, got 2"),
        ("palette", [[300, -5, 7], [0, 0, 0]], r"`palette` of task 'a' .*of 0 to 255, got \[300, -5, 7\]"),
        ("palette", [[0.5, 0, 0], [0, 0, 0]], "`palette` of task 'a' .*of 0 to 255"),
        ("palette", [[0, 0], [0, 0]], "`palette` of task 'a' .*of 0 to 255"),
        ("palette", [[HUGE, 0, 0], [0, 0, 0]], "`palette` of task 'a' .*of 0 to 255"),
        ("unit", "x" * 33, "`unit` of task 'a' to be a text of at most 32"),
        ("unit", "\x1b[31m", "`unit` of task 'a' to be a text"),
    ],
)
def test_fields_of_a_task(field, wrong, message):
    with pytest.raises(ValueError, match=message):
        Task(**{"name": "a", "channels": 2, field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("tag", 3, "`tag` to be a text"),
        ("input_size", [3, 4], "`input_size` to be a list of 3"),
        ("input_size", [3, 4, True], "width in `input_size` to be an integer from 1 to 32768, got True"),
        ("input_size", "abc", "`input_size` to be a list of 3"),
        ("max_size", 2**21, "`max_size`, unless None, to be an integer from 1 to 1048576"),
        ("max_size", False, "`max_size`, unless None, to be an integer"),
        ("mean", [], "`mean` to be a list of numbers"),
        ("mean", 0.5, "`mean` to be a list of numbers"),
        ("mean", [HUGE] * 3, "each value of `mean` to be a number from -10000 to 10000"),
        ("mean", [float("nan")] * 3, "each value of `mean` .*got nan"),
        ("mean", [0.5] * 2, "`mean` and `std` of the same length"),
        ("std", [1e-320] * 3, "each value of `std` to be a number from 1e-05 to 10000, got 1e-320"),
        ("std", ["1"] * 3, "each value of `std` to be a number .*got '1'"),
        ("std", [0, 1, 1], "each value of `std`"),
        ("file", 3, "`file` to be a string or None, got 3"),
        ("sha256", "A" * 64, "64 lower-case hexadecimal digits"),
    ],
)
def test_fields_of_preprocessing(field, wrong, message):
    with pytest.raises(ValueError, match=message):
        PretrainedCfg(**{field: wrong})


def test_statistics_for_each_channel():
    cfg = PretrainedCfg(mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert each_channel(cfg, 3) == cfg
    four = each_channel(cfg, 4)
    assert (four.mean, four.std, four.input_size[0]) == ((0.1, 0.2, 0.3, 0.1), (1, 2, 3, 1), 4)
    assert each_channel(four, 4) == four
    assert each_channel(cfg, 1).mean == pytest.approx((0.2,))
    with pytest.raises(ValueError, match="`mean` and `std` of 3 channels"):
        each_channel(PretrainedCfg(mean=(0.1, 0.2), std=(1, 1)), 3)


def test_tasks_of_one_name_are_not_merged():
    task = {"name": "a", "channels": 1}
    with pytest.raises(ValueError, match=r"`tasks` of different names, got \['a', 'a'\]"):
        ModelConfig.from_dict({**MODEL, "tasks": [task, task]})
    with pytest.raises(ValueError, match="`tasks` to be a list"):
        ModelConfig.from_dict({**MODEL, "tasks": {"a": task}})
    with pytest.raises(ValueError, match="a task to be a mapping of names to values, got 'a'"):
        ModelConfig.from_dict({**MODEL, "tasks": ["a"]})
