"""What the commands share: where they print, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    import torch

console = Console()
errors = Console(stderr=True)


@contextmanager
def friendly_errors() -> Iterator[None]:
    """What a user can mend is one line, not a stack trace."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from error


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Height and width of ``"480x640"``; one number is both."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ValueError(f"Expected {option} as HEIGHTxWIDTH in pixels, such as 480x640, got {text!r}")
    return int(sides[0]), int(sides[-1])


def device_of(name: str) -> torch.device:
    """The device that ``--device`` names.

    Raises:
        ValueError: if there is none.
    """
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Cannot run on --device {name!r}: {str(error).splitlines()[0]}") from error
