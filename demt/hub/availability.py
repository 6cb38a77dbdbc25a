"""Where the weights of a name are, and whether they are on this machine."""

from __future__ import annotations

import dataclasses
from typing import Literal

from huggingface_hub import try_to_load_from_cache

from demt.hub.folder import WEIGHTS
from demt.registry import full_name, get_config
from demt.released.cache import fetched_folder
from demt.released.tables import published

Place = Literal["package", "authors", "hub"]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of a model.

    Args:
        place: Who has them: this package, the authors, or the Hugging Face Hub.
        here: Whether they are on this machine.
        address: A file, a folder, a page or a repository.
    """

    place: Place
    here: bool
    address: str


def weights_of(name: str) -> Weights | None:
    """The weights that ``create_model(name, pretrained=True)`` takes, be it after `demt fetch`; None if there are none.

    Raises:
        ValueError: for an unknown name.
    """
    name = full_name(name)
    _, cfg = get_config(name)
    if cfg.file is not None:
        return Weights("package", True, cfg.file)
    if (folder := fetched_folder(name)) is not None:
        return Weights("authors", True, str(folder))
    if cfg.hf_hub_id is not None:
        cached = try_to_load_from_cache(cfg.hf_hub_id, WEIGHTS, revision=cfg.revision)
        return Weights("hub", isinstance(cached, str), f"https://huggingface.co/{cfg.hf_hub_id}")
    row = published(name)
    return Weights("authors", False, row.page) if row is not None and row.page else None
