"""What a model costs: parameters, and multiply-adds of one image. Counted without weights or images in memory."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from demt.config import ModelConfig
from demt.models import MultiTaskModel


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters of the model that a configuration describes."""
    return sum(parameter.numel() for parameter in _without_memory(config).parameters())


def count_multiply_adds(config: ModelConfig, size: tuple[int, int]) -> int:
    """Multiply-adds of one image of `size` (height, width).

    Counted are convolutions, matrix products, attention, and deformable sampling with four a sample; normalisations,
    activations and resizing are not. That is the convention of the papers' "FLOPs". Counted is what runs here: the
    same outputs take fewer than in the released code.

    Example:
        >>> from demt.registry import get_config
        >>> round(count_multiply_adds(get_config("demt_nano.nyud")[0], (192, 256)) / 1e9, 2)
        1.06
    """
    model = _without_memory(config)
    images = torch.empty(1, config.in_chans, *size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops()) // 2


def _without_memory(config: ModelConfig) -> MultiTaskModel:
    with torch.device("meta"):
        return MultiTaskModel(config).eval()
