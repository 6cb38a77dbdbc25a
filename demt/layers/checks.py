"""Checks of constructor arguments and of map shapes, shared by the layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_positive(**values: Any) -> None:
    """Raise `ValueError` unless every value is an integer >= 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected `{name}` to be an integer >= 1, got {value!r}")


def check_divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    """Raise `ValueError` unless `divisor` divides `value`, with the next smaller one that does."""
    check_positive(**{divisor_name: divisor, name: value})
    if value % divisor:
        smaller = next(n for n in range(min(divisor, value), 0, -1) if value % n == 0)
        raise ValueError(
            f"Expected `{divisor_name}` to divide `{name}`, got {divisor_name}={divisor}, {name}={value}; "
            f"pass {divisor_name}={smaller} or another divisor"
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {choices}, got {value!r}")


def check_maps(name: str, maps: Tensor, channels: int, dims: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `maps` are floating maps with `channels` and one of the ranks `dims`."""
    layouts = {4: f"(B, {channels}, H, W)", 5: f"(B, T, {channels}, H, W)"}
    expected = " or ".join(layouts[d] for d in dims)
    if not isinstance(maps, Tensor):
        raise ValueError(f"Expected `{name}` to be a tensor of shape {expected}, got {type(maps).__name__}")
    if maps.ndim not in dims or maps.shape[-3] != channels:
        raise ValueError(f"Expected `{name}` of shape {expected}, got {tuple(maps.shape)}")
    if not torch.is_floating_point(maps):
        raise ValueError(f"Expected `{name}` of a floating dtype, got {maps.dtype}")
