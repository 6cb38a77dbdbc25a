"""`demt explain`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import Device, MaxSize, Model, RandomWeights, console, device_of, errors, friendly_errors
from demt.cli.load import load_model


def explain(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    model: Model,
    pixel: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Column and row of the image, from 0; by default its middle.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("explained"),
    random_weights: RandomWeights = False,
    max_size: MaxSize = None,
    device: Device = "auto",
) -> None:
    """Look inside a model: where its deformable operators sample for a pixel, and which tasks a task attends to.

    Writes pictures, and the numbers in them as explain.json.
    """
    with friendly_errors():
        from demt.data.images import read_image
        from demt.files import check_new
        from demt.inference.explain import explain as run
        from demt.inference.explain_save import save_explanation

        place = None if pixel is None else _pixel(pixel)
        check_new(out)
        where, values = device_of(device), read_image(image)
        network = load_model(model, random_weights).to(where)
        if random_weights:
            errors.print("[yellow]Random weights: these pictures only show the format, and mean nothing.[/yellow]")
        found = run(network, values, max_size=max_size)
        chosen = place or (values.shape[-1] // 2, values.shape[-2] // 2)
        for file in save_explanation(found, out, chosen, task, image=str(image), model=model):
            console.print(str(file), soft_wrap=True, highlight=False, markup=False)


def _pixel(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    if found is None:
        raise ValueError(f"Expected --pixel as X,Y, such as 120,80, got {text!r}")
    return int(found[1]), int(found[2])
