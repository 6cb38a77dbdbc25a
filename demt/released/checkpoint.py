"""Reading checkpoint files of the released code, and building the models they hold."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from demt.backbones.adapter import STRIDES
from demt.config import PretrainedCfg
from demt.hub.load import check_state
from demt.models import MultiTaskModel
from demt.models.demt import DeMTHead
from demt.models.variants import SIZES
from demt.released.convert import Converted, convert
from demt.tasks import DATASETS, RELEASED

_logger = logging.getLogger("demt")


def load_released(source: str | PathLike[str] | Mapping[str, Any]) -> nn.Module:
    """The model of a checkpoint of the released DeMT, DeMTG or DeGMix code, in eval mode.

    Family, backbone, depth, tasks and channels are found from names and shapes. Files of PyTorch Lightning are read
    without it, and nothing that a file names is imported or run.

    Args:
        source: Path of a checkpoint file, its content, or a state dict.

    Returns:
        The `MultiTaskModel`; or, where the source has no backbone, its `head` alone, called as `head(levels, size)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a checkpoint; says what was looked for.
    """
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source)
    return build(convert(checkpoint))


def build(converted: Converted, *, quiet: bool = False) -> nn.Module:
    """The model of a converted checkpoint, in eval mode. Logs which entries were left out, unless `quiet`."""
    config, state = converted.config, converted.state
    model: nn.Module
    if config.backbone:
        model = MultiTaskModel(config, pretrained_cfg=_preprocessing(converted))
    else:
        state = {name.removeprefix("head."): tensor for name, tensor in state.items()}
        model = DeMTHead(_level_channels(state), (16,) * 4 if config.neck == "taps" else STRIDES, config)
    check_state(state, model.state_dict(), "the checkpoint")
    model.load_state_dict(state)
    if converted.unused and not quiet:
        _logger.warning("Left out, as no output depends on them: %s", summary(converted.unused))
    return model.eval()


def _level_channels(state: Mapping[str, Tensor]) -> list[int]:
    if "neck.proj.weight" in state:
        # Every published pyramid doubles its channels from level to level.
        finest = state["neck.proj.weight"].shape[1] // 15
        return [finest, 2 * finest, 4 * finest, 8 * finest]
    return [state[f"neck.taps.{i}.0.weight"].shape[1] for i in range(4)]


def summary(unused: Mapping[str, int]) -> str:
    """Unused entries in one line: names with their numbers replaced by `*`, and the count of parameters."""
    groups: dict[str, int] = {}
    for name, count in unused.items():
        group = re.sub(r"\.\d+(?=\.)", ".*", name)
        groups[group] = groups.get(group, 0) + count
    return ", ".join(f"{name} ({f'{count:,} parameters' if count else 'buffer'})" for name, count in groups.items())


def _preprocessing(converted: Converted) -> PretrainedCfg:
    for tag in RELEASED:
        if DATASETS[tag] == dict(converted.config.tasks):
            return PretrainedCfg(tag=tag, input_size=SIZES[tag])
    return PretrainedCfg()


class _Inert:
    """Stands in for a class or function that a file names: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertMapping(_Inert):
    """The same for what a file may fill with items: torch's unpickler fills plain and ordered dicts only."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def _stand_in(name: str) -> tuple[type, str]:
    # NumPy's scalars and types come with a state that is no dict, all of Lightning's with one or with items.
    base = _Inert if name.startswith("numpy.") else _InertMapping
    return type(name.rsplit(".", 1)[-1], (base,), {}), name


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
            stand_ins = [_stand_in(name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(file)]
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        OSError,
    ) as error:
        reason = _reason(error)
        raise ValueError(f"{fspath(path)!r} cannot be read as a checkpoint of the released code: {reason}") from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f"{fspath(path)!r} holds a {type(checkpoint).__name__}, expected a checkpoint with `state_dict`"
        )
    return checkpoint


def _reason(error: Exception) -> str:
    """What went wrong, without torch's advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Can only", "Trying to", "Unsupported"))]
    return (telling or lines or [type(error).__name__])[0]
