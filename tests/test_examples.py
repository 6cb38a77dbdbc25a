"""Every example runs, and what it claims to learn it learns."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.train.worker import reset

EXAMPLES = {file.stem: file for file in sorted((Path(__file__).parents[1] / "examples").glob("*.py"))}
#: These learn something; Ray's predicts, see tests/test_ray.py.
LEARN = [name for name in EXAMPLES if name != "ray_predict"]

NEEDS = {"finetune_own_tasks": "accelerate", "learn_from_teachers": "accelerate", "lightning_module": "lightning"}


def load(name):
    pytest.importorskip(NEEDS.get(name, "torch"))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LEARN)
def test_example_runs(name, capsys):
    # Accelerate's precision is that of the process, which tests of commands may have set.
    reset()
    load(name).main(steps=1)
    assert re.search(r"step [01]: total", capsys.readouterr().out)


def test_custom_task_learns(capsys):
    module = load("custom_task")
    untrained, trained = module.main(steps=0), module.main(steps=150)
    assert trained["height/height_mae"] < 0.3 * untrained["height/height_mae"]
    assert trained["semseg/miou"] > 0.8 > untrained["semseg/miou"]
    assert "height_mae" in capsys.readouterr().out


def test_blocks_in_unet_learn():
    history = load("blocks_in_unet").main(steps=25)
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
