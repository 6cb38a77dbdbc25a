import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "boundary.md"


def test_python_of_the_page_runs_and_prints_what_it_says(capsys):
    names = {}
    expected = []
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
        expected += re.findall(r"^print\(.*\) +# (.*)$", block, re.MULTILINE)
    assert len(expected) == 3
    assert capsys.readouterr().out.splitlines() == expected
