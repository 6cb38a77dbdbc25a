"""Reading checkpoint files of the released code, and building the models they hold."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from demt.convert import Converted, convert
from demt.models import MultiTaskModel
from demt.models.head import DeMTHead
from demt.models.variants import SIZES
from demt.config import PretrainedCfg
from demt.tasks import DATASETS

_logger = logging.getLogger("demt")


def load_released(source: str | PathLike[str] | Mapping[str, Any]) -> MultiTaskModel:
    """The model of a checkpoint of the released DeMT, DeMTG or DeGMix code, in eval mode.

    Family, backbone, depth, tasks and channels are found from names and shapes. Files of PyTorch Lightning are read
    without it, and nothing that a file names is imported or run.

    Args:
        source: Path of a checkpoint file, its content, or a state dict.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a checkpoint; says what was looked for.
    """
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source)
    return build(convert(checkpoint))


def build(converted: Converted) -> MultiTaskModel:
    """The model of a converted checkpoint, in eval mode. Logs which entries were left out."""
    config = converted.config
    model = MultiTaskModel(config, pretrained_cfg=_preprocessing(converted))
    missing, unexpected = model.load_state_dict(converted.state, strict=False)
    if missing or unexpected:
        raise ValueError(f"The checkpoint does not fill the model: missing {missing[:5]}, left over {unexpected[:5]}")
    if converted.unused:
        _logger.warning("Left out, as no output depends on them: %s", summary(converted.unused))
    return model.eval()


def summary(unused: Mapping[str, int]) -> str:
    """Unused entries in one line: names with their numbers replaced by `*`, and the count of parameters."""
    groups: dict[str, int] = {}
    for name, count in unused.items():
        group = re.sub(r"\.\d+(?=\.)", ".*", name)
        groups[group] = groups.get(group, 0) + count
    return ", ".join(f"{name} ({f'{count:,} parameters' if count else 'buffer'})" for name, count in groups.items())


def _preprocessing(converted: Converted) -> PretrainedCfg:
    for tag, tasks in DATASETS.items():
        if dict(tasks) == dict(converted.config.tasks):
            return PretrainedCfg(tag=tag, input_size=SIZES[tag])
    return PretrainedCfg()


class _Inert(dict):  # type: ignore[type-arg]
    """Stands in for every class and function that a file names: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def read_checkpoint(path: str | PathLike[str]) -> Mapping[str, Any]:
    """Read a torch checkpoint with `weights_only=True`, foreign classes replaced by inert stand-ins.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as one, or holds what even stand-ins do not make safe.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"No checkpoint at {fspath(path)!r}")
    try:
        stand_ins: list[Any] = []
        if zipfile.is_zipfile(file):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            stand_ins = [(type(name.rsplit(".", 1)[-1], (_Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{fspath(path)!r} cannot be read as a checkpoint of the released code: {reason}") from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{fspath(path)!r} holds a {type(checkpoint).__name__}, expected a checkpoint with `state_dict`")
    return checkpoint
