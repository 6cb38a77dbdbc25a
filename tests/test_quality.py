"""Style, types and import hygiene of the whole project."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "demt"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_checkers(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_demt_takes_no_optional_dependency():
    optional = ["numba", "accelerate", "torchjd", "skimage", "sklearn", "onnx", "gdown", "peft"]
    code = f"import sys, demt; print([m for m in {optional} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_surface():
    import demt

    for name in demt.__all__:
        assert getattr(demt, name).__doc__ or name == "__version__"
