"""The `demt` command."""

from __future__ import annotations

import typer

from demt.cli_boundary import eval_boundary

app = typer.Typer(name="demt", no_args_is_help=True, add_completion=False, help="Multi-task dense prediction.")


@app.callback()
def main() -> None:
    """Multi-task dense prediction with DeMT, DeMTG and DeGMix."""


app.command("eval-boundary")(eval_boundary)
