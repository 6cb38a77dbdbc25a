"""Runs killed at random instants end with the weights of an undisturbed one; nothing of a user's is deleted."""

import os
import random
import signal
import time

import pytest

from demt.train import train
from demt.train.checkpoints import Checkpoints
from demt.train.stopping import REQUEUE
from tests.train.test_resume import CHANGES, equal, states
from tests.train.worker import finish, in_process, quiet, run, tiny

OFTEN = [*CHANGES, "steps=12", "save_every=1", "eval_every=3"]


def train_quietly(recipe):
    train(recipe, resume=True, console=quiet())


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_kills_at_random_instants(tmp_path, kills):
    whole = run(tiny(tmp_path / "whole", *OFTEN))
    draw, killed, folder = random.Random(kills), 0, None
    for number in range(100 * kills):
        if folder is None:
            folder = tmp_path / str(number)
            mine = folder / "checkpoints/step_0000001_keep"
            mine.mkdir(parents=True)
            (mine / "notes").write_text("mine")
            (folder / "checkpoints/step_0000001.tar").touch()
        process = in_process(train_quietly, tiny(folder, *OFTEN))
        if killed < kills:
            process.join(draw.uniform(0.5, 4))
            number = draw.choice([signal.SIGKILL, signal.SIGTERM])
            if process.is_alive():
                os.kill(process.pid, number)
        code = finish(process)
        killed += code in (-signal.SIGKILL, -signal.SIGTERM, REQUEUE)
        assert code in (0, -signal.SIGKILL, -signal.SIGTERM, REQUEUE)
        if code:
            continue
        equal(states(folder), states(whole.folder))
        assert Checkpoints(folder).read_progress(Checkpoints(folder).newest())["results"] == whole.results
        assert (mine / "notes").read_text() == "mine"
        assert (folder / "checkpoints/step_0000001.tar").exists()
        folder = None
        if killed >= kills:
            break
    print(f"{killed} kills")
    assert killed >= kills


def test_sigterm_saves_and_asks_for_requeueing(tmp_path):
    process = in_process(train_quietly, tiny(tmp_path / "run", "steps=5000", "save_every=5000", "log_every=1"))
    until = time.monotonic() + 60
    while not (tmp_path / "run/train.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == REQUEUE
    assert Checkpoints(tmp_path / "run").newest() is not None
