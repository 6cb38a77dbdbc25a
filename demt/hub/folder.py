"""Models in folders: config.json and model.safetensors, written whole or not at all, loaded strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from demt.config import ModelConfig, PretrainedCfg
from demt.files import write_whole
from demt.files.weights import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
# Bytes that are read of a file that may be hostile; of the published models' all have less than 0.2 MB.
_MAX_CONFIG = 2**20


def write_folder(
    folder: str | PathLike[str], config: ModelConfig, pretrained_cfg: PretrainedCfg, state: Mapping[str, Tensor]
) -> None:
    """Write config.json and model.safetensors; each file replaces an older one only when it is complete."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    preprocessing = pretrained_cfg.to_dict()
    # Where weights lie is for names to say, not for the weights' own folder.
    for name in ("file", "hf_hub_id", "revision", "sha256"):
        del preprocessing[name]
    values = {"library": "demt", "model": config.to_dict(), "pretrained_cfg": preprocessing}
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
        if not isinstance(values, dict) or values.get("library") != "demt":
            raise ValueError('expected {"library": "demt", "model": …, "pretrained_cfg": …}')
        if unknown := sorted(set(values) - {"library", "model", "pretrained_cfg"}):
            raise ValueError(f"unknown keys {unknown}; known keys are ['library', 'model', 'pretrained_cfg']")
        return ModelConfig.from_dict(values.get("model", {})), PretrainedCfg.from_dict(values.get("pretrained_cfg", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} does not describe a demt model: {error}") from error
