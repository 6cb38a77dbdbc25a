"""`demt export`: write a model as a file that runs elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import ModelArgument, console, device_of, errors, friendly_errors, parse_size


class FormatChoice(str, Enum):
    """File formats."""

    onnx = "onnx"
    pt2 = "pt2"
    aoti = "aoti"


def export(
    model: ModelArgument,
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
    opset: Annotated[int, typer.Option(min=18, help="ONNX operator set.")] = 18,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Export a named model with random weights, to try things out.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX with weights and products in 8 bits; needs --calibrate.")
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="With --int8: folder of pictures as the model will see them, at least 8.")
    ] = None,
    bound: Annotated[
        str, typer.Option(help="With --int8: how far tasks may be from float32: 2%, or TASK=2%,TASK=3%.")
    ] = "2%",
    float16: Annotated[
        bool, typer.Option("--float16", help="ONNX with weights stored in 16 bits: half the file, products in float32.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where pt2 and aoti files will run: cpu, cuda …")] = "cpu",
) -> None:
    """Write a model as ONNX or as a program of torch, and compare what the file computes with the model."""
    if int8 or calibrate is not None:
        _export_int8(model, out, format, int8, calibrate, bound, predictions, size, opset, random_weights)
        return
    from demt.cli.load import load_model
    from demt.export.write import FLOAT16_TOLERANCE, TOLERANCE
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
            float16=float16,
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
        f"{'Mean' if float16 else 'Largest'} difference from the model: {written.error:.1e} standard deviations "
        f"(at most {FLOAT16_TOLERANCE if float16 else TOLERANCE:g})",
        soft_wrap=True,
        highlight=False,
    )


def _export_int8(
    model: str,
    out: Path,
    format: FormatChoice | None,
    int8: bool,
    calibrate: Path | None,
    bound: str,
    predictions: bool,
    size: str | None,
    opset: int,
    random_weights: bool,
) -> None:
    """Write a model in 8 bits, and print how far each task is from float32."""
    from rich.table import Table

    from demt.cli.load import load_model
    from demt.export.agreement import MEASURES
    from demt.export.calibration import parse_bound
    from demt.export.int8 import export_int8

    with friendly_errors():
        if not int8 or calibrate is None:
            raise ValueError("Use --int8 and --calibrate FOLDER together")
        if format not in (None, FormatChoice.onnx):
            raise ValueError(f"Expected --format onnx with --int8, got {format.value}")
        bounds = parse_bound(bound)
        sides = None if size is None else parse_size("--size", size)
        network = load_model(model, random_weights)
        with errors.status("Writing, quantising and comparing …"):
            written = export_int8(
                network, out, calibrate, bound=bounds, predictions=predictions, size=sides, opset=opset
            )
    table = Table("task", "measure")
    for column in ("all in 8 bits", "written", "bound"):
        table.add_column(column, justify="right")
    for name, task in network.tasks.items():
        values = (written.everything[name], written.differences[name], written.bounds[name])
        table.add_row(name, MEASURES[task.activation], *(f"{value:.2%}" for value in values))
    console.print(table)
    eight, total = written.layers
    console.print(
        f"Written to {written.path}: {eight} of {total} layers in 8 bits ({written.coordinates} that give offsets "
        f"always float32), {written.size / 1e6:.1f} MB, {written.size / written.float_size:.2f} of float32; "
        f"measured on {written.pictures[1]} pictures, calibrated with {written.pictures[0]} others",
        soft_wrap=True,
        highlight=False,
    )
