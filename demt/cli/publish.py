"""`demt publish`: a saved model onto the Hugging Face Hub, checked and with a card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from demt.cli.common import console, errors, friendly_errors

if TYPE_CHECKING:
    from demt.cli.upload import Prepared


def publish(
    folder: Annotated[Path, typer.Argument(help="A folder that save_pretrained wrote.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hugging Face Hub.")],
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, as named on the Hub: mit, cc-by-nc-4.0 …")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the card.")] = None,
    summary: Annotated[str | None, typer.Option(help="A paragraph below it, in Markdown.")] = None,
    results: Annotated[
        Path | None, typer.Option(help='Results by "task/metric" in a JSON file, as MultiTaskMetrics computes them.')
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="How they were measured: protocol, data, split, size.")] = None,
    training_data: Annotated[str | None, typer.Option(help="Data set, split and number of images.")] = None,
    initial_weights: Annotated[str | None, typer.Option(help="What training started from.")] = None,
    picture: Annotated[Path | None, typer.Option(help="A picture of predictions.")] = None,
    push: Annotated[
        bool, typer.Option("--push/--dry-run", help="Upload; otherwise only check and show the card.")
    ] = False,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository; by default that of the organisation."),
    ] = None,
) -> None:
    """Check a saved model, write its card, and put both on the Hugging Face Hub. Log in first: hf auth login."""
    with friendly_errors():
        from demt.cli.upload import prepared, read_results, upload
        from demt.hub.card import ModelCard
        from demt.registry import is_model

        card = ModelCard(
            title=title,
            summary=summary,
            licence=licence,
            training_data=training_data,
            initial_weights=initial_weights,
            results=read_results(results) if results else None,
            protocol=protocol,
            picture=picture,
        )
        with prepared(folder, repository, card) as what:
            _show(what)
            if not push:
                console.print("Nothing was uploaded; add --push to upload.")
                return
            commit = upload(what, private=private)
        console.print(f"Uploaded, and read back without a difference: {repository}@{commit}", soft_wrap=True)
        if is_model(name := repository.partition("/")[2]):
            console.print("For create_model by name, add to HUB in demt/models/variants.py:")
            entry = f'    "{name}": ("{repository}", "{commit}", "{what.sha256}"),'
            console.print(entry, soft_wrap=True, highlight=False)


def _show(what: Prepared) -> None:
    from rich.markdown import Markdown
    from rich.panel import Panel

    _, _, text = what.card.split("---\n", 2)
    console.print(Panel(Markdown(text), title="README.md"))
    for file in sorted(what.folder.iterdir()):
        console.print(f"{file.name:<20} {file.stat().st_size / 1e6:10.3f} MB", highlight=False)
    console.print(f"sha256 of model.safetensors: {what.sha256}", soft_wrap=True, highlight=False)
    for name in what.left_out:
        errors.print(f"[yellow]Not uploaded:[/yellow] {escape(name)}", highlight=False)
    for warning in what.warnings:
        errors.print(f"[yellow]Note:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
