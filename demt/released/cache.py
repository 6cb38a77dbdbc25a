"""The cache of the authors' checkpoints that were fetched and converted on this machine."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from demt.hub.folder import CONFIG, WEIGHTS
from demt.registry import full_name
from demt.released.tables import names_of_file, published

#: Beside config.json and model.safetensors of each folder: which file it was made from.
SOURCE = "source.json"


def released_cache(cache_dir: str | PathLike[str] | None = None) -> Path:
    """The cache's folder: `cache_dir`, or ``demt/released`` beside the Hugging Face caches (`HF_HOME` moves them)."""
    return Path(cache_dir).expanduser() if cache_dir is not None else Path(constants.HF_HOME) / "demt" / "released"


def fetched_folder(name: str, cache_dir: str | PathLike[str] | None = None) -> Path | None:
    """The folder of a model that `demt fetch` put into the cache, in `save_pretrained`'s form; None if it is not there.

    Args:
        name: A model's name, with or without tag.
        cache_dir: The cache; by default the one of `released_cache`.
    """
    if published(name) is None:
        return None
    folder = released_cache(cache_dir) / full_name(name)
    return folder if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() else None


def source_of(folder: Path) -> dict[str, Any]:
    """What `demt fetch` wrote down about the file a folder was made from; empty if that is not readable."""
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return source if isinstance(source, dict) else {}


def how_to_get(name: str, cache_dir: str | PathLike[str] | None = None) -> str | None:
    """One sentence on how to get the weights the authors published under a name; None if they published no file."""
    row, name = published(name), full_name(name)
    if row is None or row.page is None:
        return None
    if row.file_id is None:
        return f"The authors link a folder, {row.page}: download the checkpoint there, and  demt convert FILE FOLDER"
    for other in names_of_file(row.file_id):
        folder = fetched_folder(other, cache_dir)
        if other != name and folder is not None and source_of(folder).get("file_id") == row.file_id:
            return f"The authors' file labelled {row.label!r} was fetched, but it contains {other!r}: create that one"
    where = "" if cache_dir is None else f" --cache-dir {released_cache(cache_dir)}"
    return f"The authors' checkpoint is downloaded and converted by:  demt fetch {name}{where}"
