"""The `demt` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from demt.cli_benchmark import benchmark
from demt.cli_boundary import eval_boundary
from demt.cli_common import console, device_of, errors, friendly_errors, parse_size
from demt.cli_data import data
from demt.cli_export import export
from demt.cli_fetch import fetch
from demt.cli_info import info
from demt.cli_list import list_models
from demt.cli_load import load_model
from demt.cli_publish import publish
from demt.cli_train import evaluate, train

app = typer.Typer(
    name="demt", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)


def _version(wanted: bool) -> None:
    if wanted:
        import demt

        console.print(f"demt {demt.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Multi-task dense prediction with DeMT, DeMTG and DeGMix."""


@app.command()
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
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, mps …")] = "cpu",
) -> None:
    """Predict every task of a model on images: a picture per task, a panel, and the values in one .npz, per image."""
    with friendly_errors():
        from demt.save import save_predictions

        tiles = None if tile is None else parse_size("--tile", tile)
        where = device_of(device)
        network = load_model(model, random_weights).to(where)
        note = "Random weights: these pictures show what comes out, and mean nothing." if random_weights else None
        if note:
            errors.print(f"[yellow]{note}[/yellow]")
        jobs = save_predictions(
            network, images, out, max_size=max_size, tile=tiles, overlap=overlap, batch_size=batch_size, note=note
        )
        written = list(track(jobs, "Predicting", total=len(images), console=errors, disable=not errors.is_terminal))
        for panel in written:
            console.print(str(panel), soft_wrap=True, highlight=False)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint file of the released DeMT, DeMTG or DeGMix code.")],
    folder: Annotated[Path, typer.Argument(help="Where config.json and model.safetensors are written.")],
) -> None:
    """Convert a checkpoint of the released code into a folder that demt loads."""
    with friendly_errors():
        from demt.convert import convert as convert_names
        from demt.models import MultiTaskModel
        from demt.released import build, read_checkpoint, summary

        converted = convert_names(read_checkpoint(source))
        network = build(converted, quiet=True)
        if not isinstance(network, MultiTaskModel):
            raise ValueError(f"{str(source)!r} holds a head without backbone; load it with demt.load_released")
        network.save_pretrained(folder)
        config = network.config
        tasks = ", ".join(f"{name} ({task.channels})" for name, task in network.tasks.items())
        count = sum(p.numel() for p in network.parameters())
        console.print(f"{config.family} on {config.backbone}, depth {config.depth}, {count / 1e6:.2f} M parameters")
        console.print(f"Tasks: {tasks}", highlight=False)
        console.print(f"Left out, as no output depends on them: {summary(converted.unused)}", highlight=False)
        console.print(f'Written to {folder}; load with demt.create_model("local-dir:{folder}")', soft_wrap=True)


app.command()(export)
app.add_typer(data, name="data")
app.command("eval-boundary")(eval_boundary)
app.command()(benchmark)
app.command("fetch")(fetch)
app.command("list")(list_models)
app.command("info")(info)
app.command("publish")(publish)
app.command("train")(train)
app.command("eval")(evaluate)
