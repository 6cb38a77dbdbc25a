"""The documentation's Python passes the type checkers, as it would in a user's project."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/models.md", "docs/predict.md", "docs/losses.md")
BLOCK = re.compile(r"^```python.*\n((?s:.*?))^```$", re.M)
KNOWN = """
import torch
from typing_extensions import assert_type

import demt
from demt.losses import MultiTaskLoss
from demt.losses.multitask import LossOutput

model = demt.create_model("demt_nano")
assert_type(model, demt.MultiTaskModel)
logits = model(torch.zeros(1, 3, 64, 64))
assert_type(logits, dict[str, torch.Tensor])
assert_type(MultiTaskLoss("nyud")(logits, {}), LossOutput)
"""
CHECKERS = {
    # What users write need not be annotated; torch and timm are as they are.
    "mypy": [
        *("mypy", "--strict", "--allow-untyped-defs", "--allow-untyped-decorators", "--allow-untyped-calls"),
        *(
            "--follow-imports=silent",
            "--implicit-reexport",
            "--ignore-missing-imports",
            f"--cache-dir={ROOT / '.mypy_cache/users'}",
            ".",
        ),
    ],
    "pyright": ["pyright", "--pythonpath", sys.executable, "--project", "."],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder outside of the repository with a module for each page."""
    folder = tmp_path_factory.mktemp("project")
    for page in PAGES:
        blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
        assert blocks
        (folder / f"{Path(page).stem.lower()}.py").write_text("\n".join(blocks), encoding="utf-8")
    (folder / "known.py").write_text(KNOWN, encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "reportMissingImports": False, "reportPrivateImportUsage": False}),
        encoding="utf-8",
    )
    return folder


@pytest.mark.parametrize("checker", CHECKERS)
def test_documented_python_is_well_typed(checker, project, monkeypatch):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    result = subprocess.run([sys.executable, "-m", *CHECKERS[checker]], cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
