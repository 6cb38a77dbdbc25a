"""What the commands share: where they print, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

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
