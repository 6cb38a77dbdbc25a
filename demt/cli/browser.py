"""`demt browser`: write a web page that runs a model in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import ModelArgument, console, errors, friendly_errors


def browser(
    model: ModelArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to write, new or empty.")],
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="Folder dist of npm's onnxruntime-web, to copy beside the page; by default loaded from the web."
        ),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Write a named model with random weights, to try things out.")
    ] = False,
) -> None:
    """Write a web page that runs a model on pictures dropped on it, in the browser: no picture leaves the computer."""
    from demt.cli.load import load_model
    from demt.export.browser import export_browser

    with friendly_errors(), errors.status("Writing and comparing …"):
        network = load_model(model, random_weights)
        export_browser(network, folder, name=Path(model).name, runtime=runtime)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    console.print(
        f"Written to {folder}, {size:.1f} MB; look at it with python -m http.server -d {folder}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
