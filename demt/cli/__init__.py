"""The `demt` command."""

from __future__ import annotations

from typing import Annotated

import typer

from demt.cli.benchmark import benchmark
from demt.cli.boundary import eval_boundary
from demt.cli.browser import browser
from demt.cli.common import console
from demt.cli.convert import convert
from demt.cli.data import data
from demt.cli.demo import demo
from demt.cli.explain import explain
from demt.cli.export import export
from demt.cli.fetch import fetch
from demt.cli.info import info
from demt.cli.list_models import list_models
from demt.cli.predict import predict
from demt.cli.pseudo_label import pseudo_label
from demt.cli.publish import publish
from demt.cli.train import evaluate, train

app = typer.Typer(name="demt", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


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


app.command()(predict)
app.command()(explain)
app.command()(demo)
app.command("pseudo-label")(pseudo_label)
app.command()(convert)
app.command()(export)
app.command()(browser)
app.add_typer(data, name="data")
app.command("eval-boundary")(eval_boundary)
app.command()(benchmark)
app.command("fetch")(fetch)
app.command("list")(list_models)
app.command("info")(info)
app.command("publish")(publish)
app.command("train")(train)
app.command("eval")(evaluate)
