"""The models that checkpoint files of the released code hold."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from demt.backbones.adapter import STRIDES
from demt.config import PretrainedCfg
from demt.files.weights import read_weights
from demt.hub.load import check_state
from demt.models import MultiTaskModel
from demt.models.demt import DeMTHead
from demt.models.variants import SIZES, TRAINED_ON
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
    return build(convert(source if isinstance(source, Mapping) else read_weights(source)))


def build(converted: Converted, *, quiet: bool = False) -> nn.Module:
    """The model of a converted checkpoint, in eval mode. Logs which entries were left out, unless `quiet`."""
    config, state = converted.config, converted.state
    if not config.backbone:
        state = {name.removeprefix("head."): tensor for name, tensor in state.items()}

    def network() -> nn.Module:
        if config.backbone:
            return MultiTaskModel(config, pretrained_cfg=_preprocessing(converted))
        return DeMTHead(_level_channels(state), (16,) * 4 if config.neck == "taps" else STRIDES, config)

    # What the shapes of some weights ask for is built when all have them.
    try:
        with torch.device("meta"):
            wanted = network().state_dict()
    except (IndexError, KeyError, RuntimeError) as error:
        raise ValueError(f"The shapes in the checkpoint do not fit any model: {error}") from error
    check_state(state, wanted, "the checkpoint")
    model = network()
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
            return PretrainedCfg(tag=tag, input_size=SIZES[tag], trained_on=TRAINED_ON[tag])
    return PretrainedCfg()
