import pytest
import torch
from typer.testing import CliRunner

from demt.cli import app
from demt.inference.benchmark import WAYS, Cost, Setting, benchmark, in_own_process, measure

SMALL = {"model": "degmix_nano", "size": (64, 96), "seconds": 0, "threads": 1}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"compiled"}))
def test_measures_every_way(one_thread, way):
    cost = measure(Setting(way=way, batch_size=2, **SMALL))
    assert cost.seconds > 0
    assert cost.first_seconds > 0
    assert cost.memory >= cost.idle_memory >= 0


def test_a_process_of_its_own_and_errors_in_words():
    """Memory of this process would be seen if it were measured here."""
    ballast = torch.ones(1 << 28)
    good, bad = benchmark([Setting(**SMALL), Setting(**{**SMALL, "device": "cuda:99"})])
    assert isinstance(good, Cost)
    if good.memory:
        assert good.memory < ballast.nbytes + good.idle_memory
        assert good.idle_memory < 1.5e9
    assert isinstance(bad, str)
    assert bad


def test_a_killed_process_is_said_to_be_killed():
    assert "killed" in in_own_process(_die)


def _die():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_command():
    small = ["--size", "64x96", "--seconds", "0", "--threads", "1", "--device", "cpu", "--way", "fused"]
    result = CliRunner().invoke(app, ["benchmark", "degmix_nano", *small])
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if "64x96" in line)
    assert "float32" in row
    assert "fused" in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_model"], "Unknown model"),
        (["degmix_nano", "--size", "64x"], "HEIGHTxWIDTH"),
        (["degmix_nano", "--device", "foo"], "Cannot run on --device 'foo'"),
        (["degmix_nano", "--way", "fast"], "eager, fused"),
        (["degmix_nano", "--dtype", "int8"], "bfloat16"),
    ],
)
def test_command_on_bad_input(arguments, message):
    result = CliRunner().invoke(app, ["benchmark", *arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
