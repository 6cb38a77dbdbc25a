"""The `demt` command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from demt.cli_boundary import eval_boundary
from demt.cli_common import console, errors, friendly_errors
from demt.cli_data import data
from demt.cli_fetch import fetch
from demt.cli_info import info
from demt.cli_list import list_models
from demt.cli_publish import publish

if TYPE_CHECKING:
    import torch

    from demt.models import MultiTaskModel

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
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that run at once.")] = 4,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, mps …")] = "cpu",
) -> None:
    """Predict every task of a model on images: a picture per task, a panel, and the values in one .npz, per image."""
    with friendly_errors():
        from demt.save import save_predictions

        where = _device(device)
        network = _load(model, random_weights).to(where)
        note = "Random weights: these pictures show what comes out, and mean nothing." if random_weights else None
        if note:
            errors.print(f"[yellow]{note}[/yellow]")
        jobs = save_predictions(network, images, out, max_size=max_size, batch_size=batch_size, note=note)
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


app.add_typer(data, name="data")
app.command("eval-boundary")(eval_boundary)
app.command("fetch")(fetch)
app.command("list")(list_models)
app.command("info")(info)
app.command("publish")(publish)


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Cannot run on --device {name!r}: {str(error).splitlines()[0]}") from error


def _load(name: str, random_weights: bool) -> MultiTaskModel:
    import torch

    import demt
    from demt.availability import weights_of
    from demt.hub import HUB, LOCAL

    path = Path(name)
    network: torch.nn.Module
    located = name.startswith((HUB, LOCAL))
    if random_weights and (located or path.exists()):
        raise ValueError(f"{name!r} brings its own weights: drop --random-weights")
    if located:
        network = demt.MultiTaskModel.from_pretrained(name)
    elif path.is_dir():
        network = demt.MultiTaskModel.from_pretrained(path)
    elif path.is_file():
        network = demt.load_released(path)
    elif os.sep in name or path.suffix in (".ckpt", ".pth", ".tar", ".pt"):
        raise FileNotFoundError(f"No folder or checkpoint at {name!r}")
    else:
        torch.manual_seed(0)
        if not random_weights and demt.is_model(name) and weights_of(name) is None:
            raise ValueError(f"There are no weights for {name!r} yet; add --random-weights to try it without")
        network = demt.create_model(name, pretrained=not random_weights)
    if not isinstance(network, demt.MultiTaskModel):
        raise ValueError(f"{name!r} holds no whole model")
    return network
