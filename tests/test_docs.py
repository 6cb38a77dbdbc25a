"""Every Python snippet of the documentation of losses and metrics runs."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PATTERN = re.compile(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)
SNIPPETS = [
    pytest.param(needs, code, id=f"{page}-{number}")
    for page in ("losses", "metrics", "protocols")
    for number, (needs, code) in enumerate(PATTERN.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("needs", "code"), SNIPPETS)
def test_snippet_runs(needs, code):
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
