"""`demt export`: write a model as a file that runs elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import console, device_of, errors, friendly_errors, parse_size


class FormatChoice(str, Enum):
    """File formats."""

    onnx = "onnx"
    pt2 = "pt2"
    aoti = "aoti"


def export(
    model: Annotated[str, typer.Argument(help="A model's name, hf-hub:ORG/NAME, a folder, or a released checkpoint.")],
    out: Annotated[Path, typer.Argument(help="File to write, ending in .onnx or .pt2.")],
    format: Annotated[
        FormatChoice | None,
        typer.Option(
            "--format", "-f", help="onnx; pt2, for torch.export.load; aoti, compiled. By default from OUT's ending."
        ),
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Outputs are class ids, probabilities, unit normals … not logits.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fix height and width, e.g. 480x640; by default they stay open.")
    ] = None,
    opset: Annotated[int, typer.Option(min=18, help="ONNX operator set.")] = 20,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Export a named model with random weights, to try things out.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where pt2 and aoti files will run: cpu, cuda …")] = "cpu",
) -> None:
    """Write a model as ONNX or as a program of torch, and compare what the file computes with the model."""
    from demt.cli.load import load_model
    from demt.export.write import TOLERANCE
    from demt.export.write import export as write

    with friendly_errors(), errors.status("Writing and comparing …"):
        network = load_model(model, random_weights).to(device_of(device))
        written = write(
            network,
            out,
            format=None if format is None else format.value,
            predictions=predictions,
            size=None if size is None else parse_size("--size", size),
            opset=opset,
        )
    console.print(f"Written to {written.path}", soft_wrap=True, highlight=False)
    if written.error is None:
        errors.print(
            "[yellow]Not compared with the model, as onnxruntime is not installed:[/yellow] pip install 'demt\\[onnx]'",
            soft_wrap=True,
            highlight=False,
        )
        return
    console.print(
        f"Largest difference from the model: {written.error:.1e} standard deviations (at most {TOLERANCE:g})",
        soft_wrap=True,
        highlight=False,
    )
