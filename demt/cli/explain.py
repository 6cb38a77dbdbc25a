"""`demt explain`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import console, device_of, errors, friendly_errors
from demt.cli.load import load_model


def explain(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model's name, hf-hub:ORG/NAME, a folder, or a released checkpoint.")
    ],
    pixel: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Column and row of the image, from 0; by default its middle.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given again.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("explained"),
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Run a named model with random weights, to try things out.")
    ] = False,
    max_size: Annotated[
        int | None, typer.Option(min=1, help="Longest side the network runs at; by default as in training.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to run: cpu, cuda, mps …; auto is a GPU where there is one.")
    ] = "auto",
) -> None:
    """Look inside a model: where its deformable operators sample for a pixel, and which tasks a task attends to.

    Writes pictures, and the numbers in them as explain.json.
    """
    with friendly_errors():
        from demt.data.images import read_image
        from demt.inference.explain import explain as run
        from demt.inference.explain_save import save_explanation

        place = None if pixel is None else _pixel(pixel)
        if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise FileExistsError(f"{str(out)!r} exists and is not empty; give a new folder as --out")
        where, values = device_of(device), read_image(image)
        network = load_model(model, random_weights).to(where)
        if random_weights:
            errors.print("[yellow]Random weights: these pictures show what comes out, and mean nothing.[/yellow]")
        found = run(network, values, max_size=max_size)
        chosen = place or (values.shape[-1] // 2, values.shape[-2] // 2)
        for file in save_explanation(found, out, chosen, task, image=str(image), model=model):
            console.print(str(file), soft_wrap=True, highlight=False, markup=False)


def _pixel(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    if found is None:
        raise ValueError(f"Expected --pixel as X,Y, such as 120,80, got {text!r}")
    return int(found[1]), int(found[2])
