"""`demt predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from demt.cli.common import console, device_of, errors, exit_for_failed, friendly_errors, parse_size
from demt.cli.load import load_model


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model's name, hf-hub:ORG/NAME, a folder, or a released checkpoint.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("predictions"),
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Run a named model with random weights, to try things out.")
    ] = False,
    max_size: Annotated[
        int | None, typer.Option(min=1, help="Longest side the network runs at; by default as in training.")
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Run at the image's own size, in blended tiles of this size, e.g. 512x1024."),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Pixels that neighbouring tiles share; by default a quarter.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size, or tiles, that run at once.")] = 4,
    device: Annotated[str | None, typer.Option(help="Where to run: cpu (the default), cuda, mps …")] = None,
) -> None:
    """Predict every task of a model on images: a picture per task, a panel, and the values in one .npz, per image."""
    with friendly_errors():
        from demt.inference.save import save_predictions

        tiles = None if tile is None else parse_size("--tile", tile)
        where = device_of(device)
        network = load_model(model, random_weights).to(where)
        note = "Random weights: these pictures show what comes out, and mean nothing." if random_weights else None
        if note:
            errors.print(f"[yellow]{note}[/yellow]")
        jobs = save_predictions(
            network, images, out, max_size=max_size, tile=tiles, overlap=overlap, batch_size=batch_size, note=note
        )
        found = list(track(jobs, "Predicting", total=len(images), console=errors, disable=not errors.is_terminal))
    for _, result in found:
        if isinstance(result, Path):
            console.print(str(result), soft_wrap=True, highlight=False, markup=False)
    failed = [(image, result) for image, result in found if isinstance(result, Exception)]
    exit_for_failed(failed, len(images), "predictions")
