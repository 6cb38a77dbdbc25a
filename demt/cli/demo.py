"""`demt demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import Device, console, device_of, friendly_errors
from demt.cli.load import load_model

_DEFAULT = "demt_lite.photos"


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model's name, hf-hub:ORG/NAME, a folder, or a released checkpoint; may be given again, to choose "
            f"from. By default {_DEFAULT}.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets in everyone who reaches this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.", show_default=False)
    ] = None,
    max_upload: Annotated[int, typer.Option(min=1, help="Largest file that is taken, in MiB.")] = 32,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Device = "auto",
    space: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Serve nothing: write a folder to push as a Hugging Face Space."),
    ] = None,
) -> None:
    """Try models on photographs in the browser: all tasks, values of a pixel, points. Needs the extra `demo`."""
    names = list(dict.fromkeys(model or [_DEFAULT]))
    with friendly_errors():
        if space is not None:
            from demt.inference.demo.space import write_space

            for file in write_space(space, names, max_upload=max_upload * 2**20):
                console.print(str(file), soft_wrap=True, highlight=False, markup=False)
            return
        from demt.inference.demo import launch, own_folder

        where = device_of(device)
        models = {name: load_model(name).to(where) for name in names}
        with own_folder():
            page = launch(
                models, host=host, port=port, max_upload=max_upload * 2**20, open_browser=open_browser, block=False
            )
            console.print(f"{page.local_url} — Ctrl+C stops it", soft_wrap=True, highlight=False)
            page.block_thread()
