"""Weights from a file, whoever wrote it: safetensors, `torch.save`, PyTorch Lightning. No code in the file is run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demt.files.pickles import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

# Bytes to read of a header that may be hostile; those of the published models have less than 0.2 MB.
_MAX_HEADER = 2**24
#: Under which names training code keeps the weights in a checkpoint.
_ENTRIES = ("state_dict", "model_state_dict", "model", "module", "net", "network")
_DEEPEST = 5
#: What wrappers put before the names of all weights: DataParallel, torch.compile, Lightning modules.
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.|model\.|net\.|network\.)+")


def read_weights(path: str | PathLike[str], entries: Sequence[str] = _ENTRIES) -> dict[str, Tensor]:
    """Read the weights in a file, whatever its name ends with.

    Args:
        path: A safetensors file; or one of `torch.save`, which holds a state dict, or has one under ``"state_dict"``
            (PyTorch Lightning), ``"model"``, ``"model_state_dict"``, ``"module"``, ``"net"`` or ``"network"``.
        entries: Under which names a state dict is looked for, the first that is there, in its turn with one inside.

    Returns:
        Tensors on the CPU by name. Prefixes that wrappers put before all names (``module.``, ``_orig_mod.``,
        ``model.``, ``net.``, ``network.``) are taken off.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is neither, is damaged, holds no weights or claims to be larger than it is.
    """
    from demt.files.torch_files import TorchFile

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"No weights at {str(path)!r}")
    if _is_safetensors(file):
        return without_wrappers(read_safetensors(file))
    try:
        opened = TorchFile(file)
        return without_wrappers(opened.tensors(_named_tensors(opened.content, entries)))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read as weights: {error}{_pointer(file)}") from error


def read_safetensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file; nothing else is read, pickled files in particular.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole safetensors file.
    """
    # Names and configurations are read without torch, which takes seconds to import.
    import safetensors.torch

    if not Path(path).is_file():
        raise FileNotFoundError(f"No weights at {str(path)!r}")
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        # The library itself reads headers up to 100 MB, and takes several times that much memory for one.
        if header > _MAX_HEADER:
            raise ValueError(f"it claims a header of {header:,} bytes")
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is not a whole safetensors file ({error}); copy or download it again{_pointer(Path(path))}."
            " Files of torch.save are read by checkpoint_path= and demt.load_released"
        ) from error


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that they have in the network itself; see `read_weights`.

    `torch.compile` puts its prefix where it stands, also within names. `AveragedModel` counts beside the weights.
    """
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    prefix = wrappers_of(state)
    return {name.removeprefix(prefix).replace("_orig_mod.", ""): tensor for name, tensor in state.items()}


def wrappers_of(names: Mapping[str, Any]) -> str:
    """The prefix of wrappers that all names have; empty if there is none."""
    first = _WRAPPERS.match(next(iter(names), ""))
    parts = re.findall(r"\w+\.", first[0]) if first else []
    prefixes = ("".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)), "")


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with a length, and then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _named_tensors(content: Any, entries: Sequence[str]) -> dict[str, StoredTensor]:
    """The state dict in what `torch.save` was given."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a state dict: save model.state_dict()")
    for _ in range(_DEEPEST):
        if any(isinstance(value, StoredTensor) for value in content.values()):
            break
        inner = [name for name in entries if isinstance(content.get(name), dict)]
        if not inner:
            raise ValueError(
                f"it holds no tensors by name (a whole module, perhaps, or an optimiser), but {_keys(content)}; save "
                "model.state_dict() where it was written"
            )
        content = content[inner[0]]
    if other := [name for name, value in content.items() if not isinstance(value, StoredTensor)]:
        raise ValueError(f"its entry {str(other[0])[:100]!r} is not a dense tensor")
    return {str(name): value for name, value in content.items()}


def _keys(content: Mapping[Any, Any]) -> str:
    return json.dumps([str(key)[:40] for key in list(content)[:8]]) if content else "nothing"


def _pointer(path: Path) -> str:
    with path.open("rb") as file:
        is_pointer = file.read(24).startswith(b"version https://git-lfs")
    return " (it is only Git LFS's pointer to them: run `git lfs pull`)" if is_pointer else ""
