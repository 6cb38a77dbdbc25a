"""How the commands fail, and how they read sizes and devices."""

import io

import pytest
import torch
import typer
from rich.console import Console

from demt.cli import common


@pytest.fixture
def printed(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(common, "errors", Console(file=output, width=80))
    return output


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no [red]class[/red]\nsecond"), "Error: no [red]class[/red] second"),
        (OSError("disk full"), "Error: disk full"),
        (MemoryError(), "Error: Not enough memory; use smaller images, a smaller batch or another device"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nx"),
            "Error: Not enough memory; use smaller images, a smaller batch or another device: "
            "CUDA out of memory. Tried",
        ),
    ],
)
def test_errors_of_input_and_memory_are_one_line(error, line, printed):
    with pytest.raises(typer.Exit) as ended, common.friendly_errors():
        raise error
    assert ended.value.exit_code == 1
    assert printed.getvalue() == line + "\n"


def test_memory_that_a_cpu_lacks(printed):
    with pytest.raises(typer.Exit), common.friendly_errors():
        torch.empty(2**60)
    assert printed.getvalue().startswith("Error: Not enough memory")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), AttributeError("x")])
def test_errors_of_the_program_keep_their_trace(error, printed):
    with pytest.raises(type(error)), common.friendly_errors():
        raise error
    assert not printed.getvalue()


@pytest.mark.parametrize("text", ["480x640", "480X640", "[480, 640]", "480,640", " 480 x 640 "])
def test_sizes(text):
    assert common.parse_size("--size", text) == (480, 640)
    assert common.parse_size("--size", "32") == (32, 32)


@pytest.mark.parametrize("text", ["", "x", "480x", "0x4", "-1x4", "4x4x4", "[480x640", "4.5", "٣x٤"])
def test_wrong_sizes(text):
    with pytest.raises(ValueError, match="Expected --size as HEIGHTxWIDTH in pixels"):
        common.parse_size("--size", text)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert common.device_of("auto") == common.device_of(None) == torch.device("cuda:0")
    assert common.device_of("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert common.device_of("auto") == torch.device("cuda:1")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert common.device_of("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "foo", "meta", "cuda:99"])
def test_devices_that_are_none(name):
    with pytest.raises(ValueError, match="Cannot run on --device") as error:
        common.device_of(name)
    assert "\n" not in str(error.value)
