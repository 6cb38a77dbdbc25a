"""The state to resume from, as numbers in a safetensors file and their structure in JSON: reading it runs no code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from demt.files.weights import read_safetensors

_TENSORS, _OUTLINE = "state.safetensors", "state.json"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write nested mappings and lists of tensors, numbers and texts, e.g. the `state_dict` of an optimiser.

    Raises:
        OSError: if the disk is full, say.
        ValueError: for other values.
    """
    tensors: dict[str, Tensor] = {}

    def outline(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, Mapping):
            # Keys may be numbers, which JSON would turn into strings.
            return {"mapping": [[key, outline(entry, f"{name}/{key}")] for key, entry in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [outline(entry, f"{name}/{i}") for i, entry in enumerate(value)]}
        if isinstance(value, list):
            return [outline(entry, f"{name}/{i}") for i, entry in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ValueError(f"Expected the state of a run to hold tensors, numbers and texts, got {value!r} as {name!r}")

    folder.mkdir(exist_ok=True)
    text = json.dumps({name: outline(value, name) for name, value in state.items()})
    try:
        safetensors.torch.save_file(tensors, folder / _TENSORS)
    except safetensors.SafetensorError as error:
        raise OSError(f"Cannot write {str(folder / _TENSORS)!r}: {error}") from error
    (folder / _OUTLINE).write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` was given.

    Raises:
        ValueError, OSError: if a file is missing or damaged.
    """
    tensors = read_safetensors(folder / _TENSORS)

    def restored(value: Any) -> Any:
        if isinstance(value, list):
            return [restored(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "tuple":
            return tuple(restored(entry) for entry in content)
        return {key: restored(entry) for key, entry in content}

    path = folder / _OUTLINE
    try:
        return {name: restored(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """Names of the tensors in nested mappings and lists that hold NaN or infinite values."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and not bool(torch.isfinite(state).all()):
            yield name
    elif isinstance(state, (Mapping, list, tuple)):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from not_finite(value, f"{name}/{key}" if name else str(key))
