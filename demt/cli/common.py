"""What the commands share: printing, failing, and reading sizes and devices."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    import torch

#: The option of commands that can print for programs.
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
#: The model of commands that work on one.
ModelArgument: TypeAlias = Annotated[
    str, typer.Argument(help="A model's name, hf-hub:ORG/NAME, a folder, or a released checkpoint.")
]
#: Options of commands that run a model on pictures.
Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="A model's name, hf-hub:ORG/NAME, a folder, or a released checkpoint.")
]
RandomWeights: TypeAlias = Annotated[
    bool, typer.Option("--random-weights", help="Run a named model with random weights, to try things out.")
]
MaxSize: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Longest side the network runs at; by default as in training.")
]
Device: TypeAlias = Annotated[str, typer.Option(help="Where to run: cpu, cuda, mps …; auto is a GPU if there is one.")]
console = Console()
errors = Console(stderr=True)


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print errors in input, files, packages and memory as one line; bugs keep their stack trace."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        print_error(error)
        raise typer.Exit(1) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        said = f": {text.splitlines()[0]}" if (text := str(error).strip()) else ""
        print_error(f"Not enough memory; use smaller images, a smaller batch or another device{said}")
        raise typer.Exit(1) from error


def print_json(document: Any) -> None:
    """The JSON document of a command with ``--json``; NaN and infinity become null."""
    print(json.dumps(_finite(document), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_error(error: object) -> None:
    """A line on standard error."""
    text = " ".join(str(error).split()) or type(error).__name__
    errors.print(f"[red]Error:[/red] {escape(text)}", soft_wrap=True, highlight=False)


def exit_for_failed(failed: Sequence[tuple[Path, Exception]], total: int, lacking: str) -> None:
    """Report the images that failed, one line each, and exit with code 1 if there are any."""
    for image, error in failed:
        print_error(error if str(image) in str(error) else f"{image}: {error}")
    if failed:
        if total > 1:
            errors.print(f"{len(failed)} of {total} images have no {lacking}", highlight=False)
        raise typer.Exit(1)


def _is_about_memory(error: Exception) -> bool:
    # torch.OutOfMemoryError is a RuntimeError; on a CPU torch raises a plain one.
    known = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in known)


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Height and width of ``"480x640"`` or ``"[480, 640]"``; one number is both.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"(\d+)(?:[x,](\d+))?", re.sub(r"^\[(.*)\]$", r"\1", text.lower().replace(" ", "")), re.ASCII)
    sides = [int(side) for side in found.groups() if side is not None] if found else [0]
    if 0 in sides:
        raise ValueError(f"Expected {option} as HEIGHTxWIDTH in pixels, such as 480x640, got {text!r}")
    return sides[0], sides[-1]


def device_of(name: str | None) -> torch.device:
    """The device that ``--device`` names; for ``auto`` or None the GPU if there is one, else the CPU.

    Processes that a launcher started on one machine take its GPUs in turn.

    Raises:
        ValueError: if there is none of that name.
    """
    import torch

    if name in (None, "auto"):
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if found is None:
            return torch.device("cpu")
        place = os.environ.get("LOCAL_RANK", "0")
        return torch.device(found.type, int(place) % torch.accelerator.device_count() if place.isdecimal() else 0)
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Cannot run on --device {name!r}: {str(error).splitlines()[0]}") from error
    if device.type == "meta":
        raise ValueError("Cannot run on --device 'meta': it holds no values")
    return device
