import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_custom_task_learns(capsys):
    spec = importlib.util.spec_from_file_location("custom_task", EXAMPLES / "custom_task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    untrained, trained = module.main(steps=0), module.main(steps=150)
    assert trained["height/height_mae"] < 0.3 * untrained["height/height_mae"]
    assert trained["semseg/miou"] > 0.8 > untrained["semseg/miou"]
    assert "height_mae" in capsys.readouterr().out
