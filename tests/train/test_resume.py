"""Killed and resumed runs end with the weights of an unbroken one, bit for bit; checkpoints are whole or absent."""

import csv
import signal

import pytest
import torch
from safetensors.torch import load_file

import demt
from demt.train.checkpoints import Checkpoints
from tests.train.worker import (
    finish,
    in_process,
    run,
    tiny,
    train_and_die,
    train_and_die_writing,
    train_on_a_full_disk,
)

# Augmentations, dropped paths and dropout, momentum, the schedule, the average, learned weights of tasks.
CHANGES = ["ema=0.9", "balancing=uncertainty", "model.args.backbone_kwargs={drop_path_rate: 0.3, proj_drop_rate: 0.1}"]


def equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    torch.set_num_threads(1)
    return run(tiny(folder / "run", *CHANGES))


def states(folder):
    """All tensors of the last checkpoint: those evaluated, those trained, optimiser, average and balancing."""
    newest = Checkpoints(folder).newest()
    found = load_file(newest / "state/state.safetensors")
    assert {name.split("/")[0] for name in found} == {"model", "optimizer", "balancing", "ema"}
    return {**found, **load_file(newest / "model.safetensors")}


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (4, 1), (5, 0)])
def test_killed_and_resumed(unbroken, tmp_path, step, workers):
    recipe = tiny(tmp_path / "run", *CHANGES)
    assert finish(in_process(train_and_die, recipe, step)) == -signal.SIGKILL
    resumed = run(tiny(tmp_path / "run", *CHANGES, f"data.workers={workers}"), resume=True)
    equal(states(tmp_path / "run"), states(unbroken.folder))
    equal(resumed.model.state_dict(), unbroken.model.state_dict())
    assert resumed.results == unbroken.results
    with (tmp_path / "run/train.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 6


@pytest.mark.parametrize("place", ["state", "flush", "publish", "update"])
def test_killed_while_writing(unbroken, tmp_path, place):
    recipe = tiny(tmp_path / "run", *CHANGES)
    assert finish(in_process(train_and_die_writing, recipe, 6 if place == "update" else 4, place)) == -signal.SIGKILL
    for checkpoint in (tmp_path / "run/checkpoints").glob("step_*"):
        demt.MultiTaskModel.from_pretrained(checkpoint)
    demt.MultiTaskModel.from_pretrained(tmp_path / "run/last")
    run(recipe, resume=True)
    equal(states(tmp_path / "run"), states(unbroken.folder))
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["step_0000004", "step_0000006"]


@pytest.mark.parametrize("limit", [10_000, 1_700_000])
def test_full_disk_leaves_the_old_checkpoint(tmp_path, limit):
    recipe = tiny(tmp_path / "run", "ema=0.9")
    assert finish(in_process(train_and_die, recipe, 3)) == -signal.SIGKILL
    before = {file: file.read_bytes() for file in (tmp_path / "run/checkpoints").rglob("*") if file.is_file()}
    assert max(len(content) for content in before.values()) > limit
    assert finish(in_process(train_on_a_full_disk, recipe, limit, tmp_path / "report")) == 0
    after = {file: file.read_bytes() for file in (tmp_path / "run/checkpoints").rglob("*") if file.is_file()}
    assert after == before
    assert "Cannot write" in (tmp_path / "report").read_text()


def test_a_run_is_not_overwritten_and_not_resumed_with_another_recipe(unbroken):
    with pytest.raises(ValueError, match=r"holds a run; resume it \(--resume\)"):
        run(tiny(unbroken.folder, *CHANGES))
    with pytest.raises(ValueError, match=r"another recipe: optim.lr \(0.001, now 0.1\)"):
        run(tiny(unbroken.folder, *CHANGES, "optim.lr=0.1"), resume=True)


def test_a_finished_run_has_nothing_left_to_do(unbroken):
    again = run(tiny(unbroken.folder, *CHANGES, "log_every=1"), resume=True)
    assert again.results == unbroken.results
    equal(again.model.state_dict(), unbroken.model.state_dict())
