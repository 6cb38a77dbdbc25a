"""A model as the commands take it: by name, from the Hub, from a folder or a released checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from demt.models import MultiTaskModel


def load_model(name: str, random_weights: bool = False) -> MultiTaskModel:
    """The model that a user means by `name`.

    Raises:
        FileNotFoundError, ValueError, OSError: if there is none, or it has no weights.
    """
    import torch

    import demt
    from demt.hub.availability import weights_of
    from demt.hub.remote import HUB, LOCAL

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
