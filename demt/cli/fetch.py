"""`demt fetch`: the authors' checkpoints, downloaded from them and converted on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from demt.cli.common import console, errors, friendly_errors

if TYPE_CHECKING:
    from demt.released.drive import Progress
    from demt.released.fetch import Fetched


def fetch(
    name: Annotated[str, typer.Argument(help="A model the authors published a checkpoint of: demt list --pretrained.")],
    file: Annotated[
        Path | None, typer.Option(help="The checkpoint, if you downloaded it in a browser: nothing is downloaded.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where to keep it, instead of demt/released beside Hugging Face's caches.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again even if it is there.")] = False,
) -> None:
    """Download a checkpoint from its authors, check and convert it, and keep it for create_model(…, pretrained=True).

    The weights belong to their authors and are not redistributed; the authors' repositories state no licence.
    """
    with friendly_errors():
        from demt.released.fetch import fetch as fetch_released

        try:
            with progress_bar() as progress:
                fetched = fetch_released(name, cache_dir, file=file, force=force, progress=progress)
        except KeyboardInterrupt:
            errors.print("Interrupted; run the same command again to resume.")
            raise typer.Exit(130) from None
        _report(fetched, cache_dir)


def _report(fetched: Fetched, cache_dir: Path | None) -> None:
    if fetched.mismatch:
        errors.print(
            f"[yellow]Mismatch:[/yellow] the authors label the file {fetched.label!r}, but it has "
            f"{escape('; '.join(fetched.mismatch))}. It is kept under the name of what it contains.",
            soft_wrap=True,
            highlight=False,
        )
    for note in fetched.notes:
        errors.print(
            f"[yellow]Note:[/yellow] it has {escape(note)}; the model is built so.", soft_wrap=True, highlight=False
        )
    if fetched.left_out:
        console.print(f"Left out, as no output depends on them: {fetched.left_out}", highlight=False, markup=False)
    kept = "Kept in" if fetched.new else "There already:"
    console.print(f"{kept} {fetched.folder}", soft_wrap=True, highlight=False, markup=False)
    where = "" if cache_dir is None else f', cache_dir="{cache_dir}"'
    load = f'Load with demt.create_model("{fetched.name}", pretrained=True{where})'
    console.print(load, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar of bytes received, for terminals."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("Downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(received: int, total: int | None) -> None:
            bar.update(task, completed=received, total=total)

        yield show
