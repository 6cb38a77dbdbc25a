"""Style, types and import hygiene of the whole project."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


OLDER = pytest.mark.skipif(
    torch.__version__ < (2, 9) or np.lib.NumpyVersion(np.__version__) < "2.3.0",
    reason="types are those of numpy 2.3 and torch 2.9",
)


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], pytest.param(["mypy", "demt"], marks=OLDER)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_checkers(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_go_one_way():
    # The contracts are in pyproject.toml.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import demt",
        "import demt.config",
        "import demt.tasks",
        "import demt.classes",
        "import demt.plugins",
        "import demt.registry",
        "import demt.models.variants",
        "import demt.released.tables",
        "import demt; demt.list_models(pretrained=True)",
        "from demt.cli import app; app(['list'], standalone_mode=False)",
        "from demt.cli import app; app(['list', '--pretrained'], standalone_mode=False)",
    ],
)
def test_what_needs_no_torch_loads_none(statement):
    code = f"import sys; {statement}; print([m for m in ('torch', 'timm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_few_modules_at_the_root():
    assert len(list((ROOT / "demt").glob("*.py"))) <= 12


def test_importing_demt_takes_no_optional_dependency():
    optional = ["numba", "accelerate", "torchjd", "skimage", "sklearn", "onnx", "gdown", "peft"]
    code = (
        "import sys, demt; [getattr(demt, name) for name in demt.__all__]; "
        f"print([m for m in {optional} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_command_line_answers_before_torch_is_imported():
    code = "import sys, demt.cli; print([m for m in ('torch', 'timm', 'huggingface_hub') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    code = "import sys, demt.cli; demt.cli.app(['list'], standalone_mode=False); print('timm' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_names_are_there_however_they_are_reached():
    code = (
        "import demt.inference.save, demt; assert callable(demt.predict); assert demt.tasks.DATASETS; "
        "assert demt.registry.list_models('demt_nano') == ['demt_nano']; assert set(demt.__all__) <= set(dir(demt)); "
        "assert not hasattr(demt, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_surface():
    import demt

    for name in demt.__all__:
        assert getattr(demt, name).__doc__ or name == "__version__"
