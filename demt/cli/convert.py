"""`demt convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demt.cli.common import console, friendly_errors


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint file of the released DeMT, DeMTG or DeGMix code.")],
    folder: Annotated[Path, typer.Argument(help="Where config.json and model.safetensors are written.")],
) -> None:
    """Convert a checkpoint of the released code into a folder that demt loads."""
    with friendly_errors():
        from demt.files.weights import read_weights
        from demt.models import MultiTaskModel
        from demt.released.checkpoint import build, summary
        from demt.released.convert import convert as convert_names

        converted = convert_names(read_weights(source))
        network = build(converted, quiet=True)
        if not isinstance(network, MultiTaskModel):
            raise ValueError(f"{str(source)!r} holds a head without a backbone; load it with demt.load_released")
        network.save_pretrained(folder)
        config = network.config
        tasks = ", ".join(f"{name} ({task.channels})" for name, task in network.tasks.items())
        count = sum(p.numel() for p in network.parameters())
        for line in (
            f"{config.family} on {config.backbone}, depth {config.depth}, {count / 1e6:.2f} M parameters",
            f"Tasks: {tasks}",
            f"Left out, as no output depends on them: {summary(converted.unused)}",
            f'Written to {folder}; load with demt.create_model("local-dir:{folder}")',
        ):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
