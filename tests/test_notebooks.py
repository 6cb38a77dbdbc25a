"""The notebooks of docs/notebooks run from the first cell to the last, and show pictures.

Here their cells run one after the other in this process; tests/test_site.py runs them as notebooks, in a kernel.
"""

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs/notebooks"
CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.M | re.S)
QUICK = ("predict",)


def run(code, names):
    """Run a cell; what its last line gives, if that is an expression, as a notebook shows it."""
    *lines, last = ast.parse(code).body
    exec(compile(ast.Module(lines, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return None


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.stem in QUICK else pytest.mark.slow) for page in sorted(FOLDER.glob("*.md"))],
    ids=lambda page: page.stem,
)
def test_notebook_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = page.read_text(encoding="utf-8"), {"__name__": "notebook"}
    shown = [run(code, names) for code in CELL.findall(text)]
    assert f"{{nb-download}}`{page.stem}.ipynb`" in text
    assert sum(isinstance(value, Image.Image) for value in shown) >= 2
    assert all(value is None or isinstance(value, Image.Image) for value in shown)


def test_cells_run_as_in_a_notebook():
    names = {}
    assert run("x = 1\nx + 1", names) == 2
    assert run("y = x", names) is None
    assert names["y"] == 1
