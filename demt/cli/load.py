"""A model as the commands take it: all that `create_model` takes, or a checkpoint file of the released code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demt.models import MultiTaskModel


def load_model(name: str, random_weights: bool = False) -> MultiTaskModel:
    """The model that `name` stands for, in eval mode.

    Raises:
        FileNotFoundError, ValueError, OSError: if there is none, or it has no weights.
    """
    import torch

    import demt
    from demt.factory import resolve
    from demt.hub.folder import CONFIG, WEIGHTS

    is_file = Path(name).is_file() and not demt.is_model(name)
    found = None if is_file else resolve(name)
    if random_weights and (found is None or found.is_saved):
        raise ValueError(f"{name!r} brings its own weights: drop --random-weights")
    if found is None:
        if Path(name).name == WEIGHTS and (folder := Path(name).absolute().parent).joinpath(CONFIG).is_file():
            raise ValueError(f"{name!r} is part of a saved model: give its folder, {str(folder)!r}")
        network = demt.load_released(name)
        if not isinstance(network, demt.MultiTaskModel):
            raise ValueError(f"{name!r} holds a head without a backbone; load it with demt.load_released")
        return network
    if found.weights is None and not random_weights:
        raise ValueError(f"There are no weights for {name!r} yet; add --random-weights to try it without")
    torch.manual_seed(0)
    return demt.create_model(name, pretrained=not random_weights).eval()
