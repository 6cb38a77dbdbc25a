"""The documentation's Python passes the type checkers, as it would in a user's project."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/models.md", "docs/predict.md", "docs/losses.md")
BLOCK = re.compile(r"^```python.*\n((?s:.*?))^```$", re.M)
# The README's blocks go on with each other's names; functions of users are theirs to annotate.
CHECKERS = {
    "mypy": ["mypy", "--strict", "--allow-untyped-defs", "--allow-untyped-decorators", "--ignore-missing-imports"],
    "pyright": ["pyright"],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder outside of the repository with a module for each page."""
    folder = tmp_path_factory.mktemp("project")
    for page in PAGES:
        blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
        assert blocks
        (folder / f"{Path(page).stem.lower()}.py").write_text("\n".join(blocks), encoding="utf-8")
    return folder


@pytest.mark.parametrize("checker", CHECKERS)
def test_documented_python_is_well_typed(checker, project, monkeypatch):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (project / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"], "reportMissingImports": false}}')
    files = sorted(path.name for path in project.glob("*.py"))
    result = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], *([] if checker == "pyright" else files)],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_a_model_gives_is_known(project):
    (project / "revealed.py").write_text(
        "import demt, torch\nfrom demt.losses import MultiTaskLoss\n"
        "model = demt.create_model('demt_nano')\nreveal_type(model)\nlogits = model(torch.zeros(1, 3, 64, 64))\n"
        "reveal_type(logits)\nreveal_type(MultiTaskLoss('nyud')(logits, {}))\n"
    )
    environment = {"MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", "revealed.py"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    (project / "revealed.py").unlink()
    for shown in ("demt.models.model.MultiTaskModel", "dict[str, torch._tensor.Tensor]", "LossOutput"):
        assert shown in result.stdout
