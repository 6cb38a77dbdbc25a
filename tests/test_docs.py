"""The documentation is true: its snippets run, page by page, and print what stands beside them.

The Python blocks of a page run in order in one namespace, in a folder with a photograph, a checkpoint of the released
code and two boundary maps. In shell blocks, what starts with ``demt`` runs. ``no-run`` after a block's language leaves
the block out; ``<!-- needs: package -->`` above it leaves it out where that package is missing. A comment behind or
under a ``print`` is what must come out.
"""

import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

import demt
from demt.cli import app
from tests.conftest import needs_export
from tests.released_form import released_form

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>\w+) -->\n)?^```(?P<language>\w+)(?P<info>.*)\n(?P<code>(?s:.*?))^```$", re.M
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "docs").mkdir()
    for name in ("photo.jpg", "docs/photo.jpg"):
        Image.fromarray(data.astronaut()[::2, ::2]).save(folder / name)
    shutil.copy(ROOT / "docs/room.jpg", folder / "docs")
    torch.manual_seed(0)
    model = demt.create_model("demt_hrnet_w18.nyud")
    state = released_form(model.state_dict(), family="demt", tasks=list(model.tasks))
    torch.save({"state_dict": state}, folder / "checkpoint.ckpt")
    edges = np.zeros((60, 80), np.uint8)
    edges[30] = 255
    for name in ("predictions/edge", "data/NYUDv2/edge"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(edges).save(folder / name / "1.png")
    own_data(folder / "my_data")
    if importlib.util.find_spec("av"):
        from tests.benchmarks.video import write_noise

        write_noise(folder / "walk.mp4", 10)
    return folder


def own_data(folder):
    """The folders of docs/data.md: three images, labelled in part."""
    rng = np.random.default_rng(0)
    labels = {"0001": ("semseg", "depth"), "0002": ("semseg", "normals"), "street/0003": ("depth",)}
    for task in ("images", "semseg", "depth", "normals"):
        (folder / task / "street").mkdir(parents=True)
    for name, tasks in labels.items():
        Image.fromarray(data.astronaut()[::4, ::4]).save(folder / f"images/{name}.jpg")
        Image.fromarray(rng.integers(500, 9000, (128, 128)).astype(np.uint16)).save(folder / f"depth/{name}.png")
        Image.fromarray(rng.integers(0, 5, (128, 128)).astype(np.uint8)).save(folder / f"semseg/{name}.png")
        np.save(folder / f"normals/{name}.npy", np.broadcast_to(np.float32([0.6, 0, 0.8]), (128, 128, 3)))
        for task in {"semseg", "depth", "normals"} - set(tasks):
            next((folder / task).glob(f"{name}.*")).unlink()
    index = ["image,semseg,depth", "images/0001.jpg,semseg/0001.png,depth/0001.png", "images/0002.jpg,semseg/0002.png,"]
    (folder / "index.csv").write_text("\n".join(index))


def commands(code):
    """The ``demt`` commands of a shell block."""
    parts = re.split(r"\n|&&", code.replace("\\\n", " "))
    return [shlex.split(part, comments=True) for part in parts if part.strip().startswith("demt ")]


def printed(code):
    """Lines that a Python block says it prints: the comment behind a ``print``, or the comments under it."""
    lines, under = [], False
    for line in code.splitlines():
        if match := re.match(r" *print\(.*\)(?:  # (?P<said>.*))?$", line):
            lines += [match["said"]] if match["said"] else []
            under = not match["said"]
        elif under and line.startswith("# "):
            lines.append(line[2:])
        else:
            under = False
    return lines


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=needs_export) if page.stem == "export" else page for page in PAGES],
    ids=[str(page.relative_to(ROOT)) for page in PAGES],
)
def test_page_runs(page, prepared, tmp_path, monkeypatch, capsys):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # A model that one page registers is unknown to the next, as it is to a reader who opens that page alone.
    monkeypatch.setattr("demt.registry._functions", {})
    text, names = page.read_text(encoding="utf-8"), {"__name__": f"page_{page.stem}"}
    for block in BLOCK.finditer(text):
        needs, language, info, code = block.group("needs", "language", "info", "code")
        if "no-run" in info or (needs and importlib.util.find_spec(needs) is None):
            continue
        if language == "python":
            # Empty lines in front, so that a traceback has the page's line numbers.
            line = text.count("\n", 0, block.start("code"))
            capsys.readouterr()
            exec(compile("\n" * line + code, str(page), "exec"), names)
            out = iter(capsys.readouterr().out.splitlines())
            for expected in printed(code):
                assert expected in out, f"{page.name}, block at line {line}: not printed, or not in this order"
        elif language == "bash":
            for command in commands(code):
                result = CliRunner().invoke(app, command[1:])
                assert result.exit_code == 0, f"{shlex.join(command)}: {result.output}"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(prose):
        assert (page.parent / target).exists(), target


NAMED = [*PAGES, *sorted((ROOT / "demt").rglob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]


def exists(name):
    """Whether a dotted name is a module, or an attribute or annotated field of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("file", NAMED, ids=[str(file.relative_to(ROOT)) for file in NAMED])
def test_names_and_paths_exist(file):
    text = file.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"(?<![\w./@\"-])demt(?:\.[A-Za-z_]\w*)+", text))):
        # Models and files begin with the package's name too.
        assert exists(name) or (ROOT / "demt/models" / name).exists(), name
    for path in sorted(set(re.findall(r"\b(?:demt|tests|docs|examples)/[\w/]*\w\.(?:py|md)\b", text))):
        assert (ROOT / path).exists() or path == "demt/backbones/NAME.py", path


def test_missing_names_are_found():
    assert exists("demt.layers.LinearNeck")
    assert not exists("demt.layers.token_gram")
    assert not exists("demt.no_module.name")


def test_blocks_and_commands_are_found():
    page = (
        "<!-- needs: a -->\n```python\nx = 1\nprint(x)  # 1\nprint(x)\n# 2\n# 3\nx\n# 4\n```\n"
        "```bash no-run\npip install x && demt a \\\n b # c\ndemt d\n```\n"
    )
    first, second = BLOCK.finditer(page)
    assert first.group("needs", "language") == ("a", "python")
    assert first["code"].startswith("x = 1\n")
    assert first["code"].endswith("# 4\n")
    assert second.group("needs", "language", "info") == (None, "bash", " no-run")
    assert printed(first["code"]) == ["1", "2", "3"]
    assert commands(second["code"]) == [["demt", "a", "b"], ["demt", "d"]]
