"""`demt publish`, against a Hub on loopback."""

import json
import re
import shutil

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import demt
from demt import registry
from demt.cli import app, upload
from demt.cli.upload import read_results
from demt.models import variants
from tests.hub.test_hub import client, hub  # noqa: F401
from tests.hub_server import TOKEN

REPO = "org/demt_nano.pascal"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    demt.create_model("demt_nano.pascal").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def run(*arguments):
    return CliRunner().invoke(app, ["publish", *map(str, arguments)], env={"COLUMNS": "100"})


def test_a_dry_run_shows_the_card_and_asks_nobody(folder, tmp_path, hub):  # noqa: F811
    (folder / "optimiser.pt").write_bytes(b"pickle")
    (tmp_path / "results.json").write_text('{"results": {"semseg/miou": 0.5123, "human_parts/miou": 0.4}}')
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    options = ("--results", tmp_path / "results.json", "--protocol", "atrc, PASCAL-Context val")
    result = run(folder, REPO, "--licence", "cc-by-nc-4.0", "--title", "Rooms", *options)
    assert result.exit_code == 0, result.output
    for shown in (
        "Rooms",
        "51.23",
        "atrc, PASCAL-Context val",
        "cc-by-nc-4.0",
        f"hf-hub:{REPO}",
        "Nothing was uploaded",
    ):
        assert shown in result.stdout
    assert "Not uploaded: optimiser.pt" in result.stderr
    assert "no results of sal, normals, edge" in result.stderr
    assert "--training-data" in result.stderr
    assert hub.requests == []
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_is_pushed_can_be_created_by_name(folder, hub, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (folder / "optimiser.pt").write_bytes(b"pickle")
    result = run(folder, REPO, "--licence", "mit", "--private", "--push")
    assert result.exit_code == 0, result.output
    repository = hub.repos[REPO]
    assert repository.private
    (commit,) = set(repository.branches.values())
    assert set(repository.commits[commit]) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert repository.commits[commit]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "license: mit" in repository.commits[commit]["README.md"].decode()
    name, *entry = re.search(r'"(\S+)": \("(\S+)", "(\w{40})", "(\w{64})"\),', result.stdout).groups()
    monkeypatch.setattr(registry, "MODELS", variants.make_table({name: tuple(entry)}))
    model = demt.create_model("demt_nano.pascal", pretrained=True)
    assert "demt_nano.pascal" in demt.list_models(pretrained=True)
    assert re.search(r"demt_nano +hub|demt_nano +here", CliRunner().invoke(app, ["list", "demt_nano"]).stdout)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_without_the_right_to_write(folder, hub):  # noqa: F811
    result = run(folder, REPO, "--licence", "mit", "--push")
    assert result.exit_code == 1
    assert "log in with `hf auth login`" in result.stderr


def test_what_comes_back_damaged_is_noticed(folder, hub, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push = upload.push

    def damage(staged, *arguments, **options):
        commit = push(staged, *arguments, **options)
        hub.repos[REPO].commits[commit.oid]["model.safetensors"] = b"other"
        return commit

    monkeypatch.setattr(upload, "push", damage)
    result = run(folder, REPO, "--licence", "mit", "--push")
    assert result.exit_code == 1
    assert "sha256" in result.stderr


def damage_weights(folder):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["head.heads.sal.logits.bias"].fill_(float("nan"))
    safetensors.torch.save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, [REPO], "need a licence"),
        (None, ["name", "--licence", "mit"], "repository as ORG/NAME, got 'name'"),
        (damage_weights, [REPO, "--licence", "mit"], "'head.heads.sal.logits.bias' holds NaN"),
        (lambda f: (f / "config.json").unlink(), [REPO, "--licence", "mit"], "No config.json"),
        (lambda f: (f / "source.json").write_text("{}"), [REPO, "--licence", "mit"], "theirs to publish"),
        (None, [REPO, "--licence", "mit", "--results", "nothing.json"], "No such file"),
    ],
)
def test_what_fails_a_check(change, arguments, message, folder):
    if change is not None:
        change(folder)
    result = run(folder, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_a_model_that_overflows_is_refused(folder):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["head.heads.sal.logits.weight"].fill_(3e38)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    assert "NaN or infinite logits of 'sal'" in run(folder, REPO, "--licence", "mit").stderr


@pytest.mark.parametrize("text", ["[1]", "{}", '{"a": "b"}', '{"a": NaN, "b": true}', "no json"])
def test_results_that_are_none(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results.json"):
        read_results(tmp_path / "results.json")


def test_results_are_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"results": {"edge/odsF": 0.7}, "protocol": "atrc"}))
    assert read_results(tmp_path / "results.json") == {"edge/odsF": 0.7}
