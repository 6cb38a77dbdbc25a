"""Models in folders: config.json and model.safetensors, written whole or not at all, loaded strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demt import __version__
from demt.config import ModelConfig, PretrainedCfg, each_channel
from demt.files import write_whole
from demt.files.weights import read_safetensors
from demt.tasks.checks import shown

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
# Bytes to read of a file that may be hostile; those of the published models have less than 0.2 MB.
_MAX_CONFIG = 2**20


def write_folder(
    folder: str | PathLike[str], config: ModelConfig, pretrained_cfg: PretrainedCfg, state: Mapping[str, Tensor]
) -> None:
    """Write config.json and model.safetensors; each file replaces an older one only when it is complete."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    places = set()
    for name, tensor in state.items():
        tensors[name] = tensor.detach().cpu().contiguous()
        # safetensors takes no weights that share memory, such as those of layers that are tied.
        if (place := tensors[name].untyped_storage().data_ptr()) in places:
            tensors[name] = tensors[name].clone()
        places.add(place)
    preprocessing = each_channel(pretrained_cfg, config.in_chans).to_dict()
    # Where weights lie is for names to say, not for the weights' own folder.
    for name in ("file", "hf_hub_id", "revision", "sha256"):
        del preprocessing[name]
    values = {"library": "demt", "version": __version__, "model": config.to_dict(), "pretrained_cfg": preprocessing}
    text = json.dumps(values, indent=2) + "\n"
    write_whole(path / WEIGHTS, lambda target: _save_safetensors(tensors, target))
    write_whole(path / CONFIG, lambda target: Path(target).write_text(text, encoding="utf-8"))


def _save_safetensors(tensors: dict[str, Tensor], target: str) -> None:
    import safetensors.torch

    try:
        safetensors.torch.save_file(tensors, target, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(f"Cannot write the weights: {error}") from error


def read_folder(folder: str | PathLike[str]) -> tuple[ModelConfig, PretrainedCfg, dict[str, Tensor]]:
    """Configuration, preprocessing and weights of a folder that `save_pretrained` wrote.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if a file is damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"No model folder at {str(path)!r}; expected a folder with {CONFIG} and {WEIGHTS}")
    config, pretrained_cfg = read_config(path / CONFIG)
    return config, pretrained_cfg, read_safetensors(path / WEIGHTS)


def read_config(path: Path) -> tuple[ModelConfig, PretrainedCfg]:
    """Read config.json.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is not what `write_folder` writes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No {path.name} in {str(path.parent)!r}; save_pretrained writes it")
    if path.stat().st_size > _MAX_CONFIG:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size:,} bytes, expected at most {_MAX_CONFIG:,}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    try:
        return _described(values)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{str(path)!r} does not describe a demt model: {error}{_newer(values, error)}") from error


def _described(values: Any) -> tuple[ModelConfig, PretrainedCfg]:
    if not isinstance(values, dict) or values.get("library") != "demt":
        raise ValueError('expected {"library": "demt", "model": …, "pretrained_cfg": …}')
    known = ["library", "version", "model", "pretrained_cfg"]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"Unknown keys {shown(unknown)}; known keys are {known}")
    config = ModelConfig.from_dict(values.get("model", {}))
    cfg = PretrainedCfg.from_dict(values.get("pretrained_cfg", {}))
    if len(cfg.mean) != config.in_chans:
        raise ValueError(f"Expected `mean` and `std` of {config.in_chans} channels, got {cfg.mean!r} and {cfg.std!r}")
    return config, cfg


def _newer(values: Any, error: Exception) -> str:
    """What to do where a file may be of a newer version of this package."""
    version = values.get("version") if isinstance(values, dict) else None
    # Releases compare as numbers; what is neither a release nor a text is not ours.
    numbers = [tuple(map(int, re.findall(r"\d{1,9}", text)[:3])) for text in (str(version)[:20], __version__)]
    if isinstance(version, str) and numbers[0] > numbers[1]:
        return f". It was written by demt {shown(version)}, and this is {__version__}: upgrade with pip install -U demt"
    if str(error).startswith("Unknown"):
        return ". It may be from a newer version: upgrade with pip install -U demt"
    return ""
