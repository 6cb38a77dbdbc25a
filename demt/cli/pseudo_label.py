"""`demt pseudo-label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import console, device_of, errors, exit_for_failed, friendly_errors


def pseudo_label(
    teacher: Annotated[
        str,
        typer.Argument(help="A model as for predict, or an ONNX file with a description beside it."),
    ],
    images: Annotated[Path, typer.Argument(help="Folder of the pictures; it is only read.")],
    out: Annotated[Path, typer.Argument(help="Folder of the data set; run the same command again to resume.")],
    tasks: Annotated[str | None, typer.Option(help="Tasks to label, such as edge,sal; by default all.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Longer side of the copies: larger pictures are shrunk.")
    ] = None,
    negative: Annotated[
        float, typer.Option(min=0, max=1, help="Probability below which pixels of sal, edge … are background.")
    ] = 0.35,
    positive: Annotated[
        float, typer.Option(min=0, max=1, help="Probability above which they are foreground; between, unlabelled.")
    ] = 0.6,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Probability below which pixels of class maps are unlabelled.")
    ] = 0.5,
    soft: Annotated[
        bool, typer.Option("--soft", help="Keep the probabilities of boundaries as labels, without the two limits.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where a model runs: cpu, cuda, mps …; auto is a GPU if there is one.")
    ] = "auto",
) -> None:
    """Let a network label a folder of pictures, and write a data set to train another one on."""
    with friendly_errors():
        from rich.progress import track

        from demt.cli.load import load_model
        from demt.inference.pseudo_label import pseudo_label as run

        onnx = Path(teacher).suffix.lower() == ".onnx"
        if onnx and device not in ("auto", "cpu"):
            raise ValueError("--device is for demt models; ONNX teachers run on the CPU")
        found = run(
            teacher if onnx else load_model(teacher).to(device_of(device)),
            images,
            out,
            tasks=tasks,
            size=size,
            negative=negative,
            positive=positive,
            confidence=confidence,
            soft=soft,
            show=lambda names: track(names, "Labelling", console=errors, disable=not errors.is_terminal),
        )
        left_out = len(found.failed)
        total = sum(1 for _ in (out / "images").rglob("*.*")) + left_out
    encodings = f" data.encodings={found.encodings}" if found.encodings else ""
    console.print(
        f"{total - left_out} pictures in {out}; in a recipe: data.root={out} data.tasks={found.tasks}{encodings}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    exit_for_failed(list(found.failed.items()), total, "labels")
