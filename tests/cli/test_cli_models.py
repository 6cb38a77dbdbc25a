"""`demt list` and `demt info`."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.models.variants import FAMILIES, PACKAGED, SCORES
from demt.released.fetch import fetch
from demt.released.tables import ROWS
from tests.released_form import released_form, save_as_lightning


def run(*arguments, width=80):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(width)})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    return tmp_path / "demt" / "released"


@pytest.fixture
def fetched(cache, tmp_path, monkeypatch):
    """`demt_swin_tiny.nyud` in the cache, from a file with one block more than the name says."""
    model = demt.create_model("demt_swin_tiny.nyud", depth=2)
    file = tmp_path / "checkpoint.ckpt"
    save_as_lightning(released_form(model.state_dict(), family="demt", tasks=list(model.tasks)), file, monkeypatch)
    return fetch("demt_swin_tiny.nyud", file=file).folder


def test_every_model_is_listed_once():
    result = run("list")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["model", "nyud", "pascal", "cityscapes", "rooms", "photos"]
    built_in = [name for name in demt.list_models() if demt.registry.get_function(name) is None]
    assert [line[0] for line in lines[1:] if "_tuning" not in line[0]] == built_in
    assert ["demt_swin_tiny", "fetch"] in lines
    assert ["degmix_swin_tiny", "fetch", "fetch"] in lines
    assert ["demt_swin_base"] in lines


def test_listing_builds_no_model(monkeypatch):
    monkeypatch.setattr("demt.models.model.MultiTaskModel.__init__", None)
    assert run("list", "--pretrained").exit_code == 0


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("degmix_vit", 2),
        ("*_nano", len(FAMILIES)),
        ("demt_swin_tiny", 2),
        ("*_vit_*.cityscapes", 2 * len(FAMILIES)),
    ],
)
def test_filters(pattern, count):
    assert len(run("list", pattern).stdout.splitlines()) == count + 1


def test_a_filter_that_nothing_fits():
    result = run("list", "resnet")
    assert result.exit_code == 1
    assert "No model fits 'resnet'" in result.stderr
    assert "No model with weights fits 'degmix_nano'" in run("list", "degmix_nano", "--pretrained").stderr


def test_pretrained_has_what_the_authors_published():
    result = run("list", "--pretrained")
    names = [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert sorted(names) == sorted({*PACKAGED, *(name for row in ROWS if row.page for name in row.names)})
    assert re.search(r"degmix_swin_large\.nyud +57\.55 / 0\.5037 / 19\.21 / 79 +fetch", result.stdout)
    assert "not measured here" in result.stderr


def test_details():
    result = run("list", "*_nano", "--details")
    assert re.search(r"demt_nano +1\.62 +1\.06 +192x256", result.stdout)


def test_what_is_fetched_is_shown(fetched):
    assert re.search(r"demt_swin_tiny +here", run("list").stdout)
    result = run("info", "demt_swin_tiny", width=500)
    assert re.search(rf"Weights +{re.escape(str(fetched))}, on this machine", result.stdout)
    assert re.search(r"Differs +depth 2, not 1; 32\.80 M parameters, not 31\.94 M", result.stdout)
    assert re.search(r"Parameters +32\.80 M \(published: 32\.07 M\)", result.stdout)


@pytest.mark.parametrize("width", [80, 120])
def test_info_is_whole_at_usual_widths(width):
    lines = run("info", "degmix_swin_large.pascal", width=width).stdout.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(line.rstrip() for line in lines)
    assert text.startswith(
        "degmix_swin_large.pascal\nFamily      degmix, mixer depth 2, pointwise interaction, linear query"
    )
    for part in (
        "512 x 512",
        "G multiply-adds per image",
        "demt fetch degmix_swin_large.pascal\n",
        "https://drive.google.com/open?id=11N8WCL6-nbaE2PRc2EaTDw0oo8a6A6xE\n",
        "human_parts         7  class ids     mIoU, %                  67.42\n",
        "sal                 2  probability   maxF, %                  83.74\n",
        "protocol atrc",
    ):
        assert part in text
    assert "…" not in text


@pytest.mark.parametrize("name", ["degmix_swin_large", "demt_vit_large"])
def test_info_of_large_models(name):
    result = run("info", name)
    assert result.exit_code == 0, result.output
    assert re.search(r"Parameters +\d+\.\d\d M", result.stdout)


def test_info_of_a_folder(tmp_path):
    demt.create_model("multitask_baseline_nano", tasks={"depth": 1}).save_pretrained(tmp_path / "mine")
    result = run("info", str(tmp_path / "mine"))
    assert "multitask_baseline: neck and heads only" in result.stdout
    assert "depth         1  values in m" in result.stdout


def test_a_typo():
    result = run("info", "demt_swin_tny")
    assert result.exit_code == 1
    assert "did you mean" in result.stderr


def test_details_fit_a_usual_terminal():
    lines = run("list", "multitask_baseline_nano", "--details").stdout.splitlines()
    assert lines[0].split() == ["model", "M", "params", "GMACs", "at", "weights"]
    assert lines[1].split()[-2:] == ["here", "rooms"]
    assert max(map(len, run("list", "*swin_large", "--details").stdout.splitlines())) <= 80


def test_own_scores_are_those_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs/weights.md").read_text(encoding="utf-8")
    for name, scores in SCORES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| **{name}**"))
        miou, parts, saliency, normals, depth, edge = map(float, row.split("|")[2:-1])
        assert list(scores.values()) == [miou, parts, saliency, normals, depth / 100, edge]
        shown = run("info", name).stdout
        assert re.search(rf"sal +2 +probability +maxF, % +{saliency:g}\n", shown)
        assert "docs/weights.md" in shown


def test_info_prints_names_of_files_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = demt.Task(name="height", channels=1, unit="[red]m[/nothing]")
    demt.create_model("demt_nano", tasks={"height": task}).save_pretrained("[bold]mine[/x]")
    result = run("info", "[bold]mine[/x]", width=200)
    assert result.exit_code == 0, result.output
    assert "[bold]mine[/x]" in result.stdout
    assert "values in [red]m[/nothing]" in result.stdout
