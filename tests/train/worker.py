"""Training runs of a few steps on a tiny model, here and in processes of their own that may kill themselves.

Processes are forked from a server that has imported everything: a start costs milliseconds, not seconds.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import signal
import socket
import traceback
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from rich.console import Console

from demt.train import checkpoints, load_recipe, loop, report, train

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.train.worker"])

TINY = [
    "model.name=degmix",
    "model.args={backbone: test_vit.r160_in1k, width: 16}",
    "data.size=[48,64]",
    "data.length=10",
    "data.val_length=3",
    "data.eval_batch_size=2",
    "data.workers=0",
    "data.tasks=[semseg,normals,depth]",
    "batch_size=4",
    "steps=6",
    "optim.warmup=1",
    "eval_every=100",
    "save_every=2",
    "samples=0",
]


def tiny(out, *changes):
    """A recipe of six steps."""
    return load_recipe("rooms", [*TINY, f"out={out}", *changes])


def reset():
    """Forget Accelerate's state of the process, so that the next run may choose another."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def quiet():
    """A console that keeps what it prints."""
    return Console(file=io.StringIO(), width=200)


def run(recipe, **options):
    """Train here."""
    reset()
    return train(recipe, **{"console": quiet(), **options})


def in_process(function, *arguments, environment=None):
    """Run a function in a process of its own; returns the process, started."""
    process = FORK.Process(target=_call, args=(function, environment or {}, arguments))
    process.start()
    return process


def finish(process):
    """Wait for a process and give its exit code."""
    process.join(120)
    code = process.exitcode
    process.kill()
    return code


def _call(function, environment, arguments):
    torch.set_num_threads(1)
    os.environ.update(environment)
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        raise


def die():
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(recipe, step, resume=False):
    """Train, and be killed when step `step` has begun."""
    usual = loop.seed_all

    def seed_all(*numbers):
        usual(*numbers)
        if len(numbers) == 4 and numbers[1] == step:
            die()

    loop.seed_all = seed_all
    train(recipe, resume=resume, console=quiet())


def train_and_die_writing(recipe, step, place):
    """Train, and be killed while the checkpoint of `step` is written: before `place` of what the writer calls."""
    if place == "state":
        usual = report.write_state

        def write_state(folder, state):
            usual(folder, state)
            if f"step_{step:07d}" in str(folder):
                (folder / "state.safetensors").write_bytes(b"half")
                die()

        report.write_state = write_state
    else:
        name = {"flush": "_write_progress", "publish": "publish", "update": "update"}[place]
        whole = getattr(checkpoints.Checkpoints, name)

        def method(self, *arguments):
            if f"{step:07d}" in str(arguments) or step in arguments:
                die()
            whole(self, *arguments)

        setattr(checkpoints.Checkpoints, name, method)
    train(recipe, console=quiet())


def train_on_a_full_disk(recipe, limit, report):
    """Go on where no file can grow beyond `limit` bytes, and write down the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        train(recipe, resume=True, console=quiet())
    except OSError as error:
        Path(report).write_text(str(error))


def train_in_rank(recipe, report, partial_labels):
    """Train in one of several processes, and keep what came out."""
    if partial_labels:
        from demt.train import run as run_module
        from tests.train.test_loop import open_partial

        run_module.open_dataset = open_partial
    trained = train(recipe, console=quiet())
    if int(os.environ["RANK"]) == 0:
        torch.save({"state": trained.model.state_dict(), "results": trained.results}, report)


def two_processes(recipe, report, partial_labels=False):
    """Train in two processes that talk through gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if torch.accelerator.is_available():
        common |= {"ACCELERATE_USE_CPU": "true"}
    processes = [
        in_process(
            train_in_rank, recipe, report, partial_labels, environment={**common, "RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    codes = [finish(process) for process in processes]
    assert codes == [0, 0]
    return torch.load(report)
