"""Checks of arguments, for layers and operators: numbers, shapes, devices and types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


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
    if not isinstance(maps, Tensor) or maps.ndim not in dims or maps.shape[-3] != channels:
        layouts = {4: f"(B, {channels}, H, W)", 5: f"(B, T, {channels}, H, W)"}
        expected = " or ".join(layouts[d] for d in dims)
        if not isinstance(maps, Tensor):
            raise ValueError(f"Expected `{name}` to be a tensor of shape {expected}, got {type(maps).__name__}")
        raise ValueError(f"Expected `{name}` of shape {expected}, got {tuple(maps.shape)}")
    if not torch.is_floating_point(maps):
        raise ValueError(f"Expected `{name}` of a floating dtype, got {maps.dtype}")


def check_map(name: str, value: Tensor) -> None:
    """A map is a floating tensor of four dimensions, of a type that can be computed with."""
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected `{name}` to be a torch.Tensor, got {type(value).__name__}")
    if value.ndim != 4:
        raise ValueError(f"Expected `{name}` of shape (B, C, H, W), got {tuple(value.shape)}")
    check_floating(name, value)


def check_floating(name: str, value: Tensor) -> None:
    if value.dtype not in (torch.float32, torch.float64, *HALF):
        raise TypeError(
            f"Expected `{name}` to be float32, float64, float16 or bfloat16, got {value.dtype}; "
            f"convert it with .float()"
        )


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], why: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected `{name}` to be a torch.Tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ValueError(f"Expected `{name}` of shape {shape} {why}, got {tuple(value.shape)}")
    check_floating(name, value)


def check_same_device(x: Tensor, **others: Tensor) -> None:
    for name, value in others.items():
        if value.device != x.device:
            raise ValueError(f"Expected `{name}` on {x.device}, where `x` is, got {value.device}; move it with .to()")


def check_same_dtype(x: Tensor, **others: Tensor) -> None:
    for name, value in others.items():
        if value.dtype != x.dtype:
            raise TypeError(f"Expected `{name}` to be {x.dtype} as `x` is, got {value.dtype}; convert one of the two")


def check_offset_dtype(x: Tensor, **others: Tensor) -> None:
    """Positions may be float32 beside a half-precision map: half a mantissa cannot hold a position to a pixel."""
    for name, value in others.items():
        if value.dtype != x.dtype and not (x.dtype in HALF and value.dtype == torch.float32):
            allowed = f"{x.dtype} or torch.float32" if x.dtype in HALF else f"{x.dtype} as `x` is"
            raise TypeError(f"Expected `{name}` to be {allowed}, got {value.dtype}; convert one of the two")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type coordinates and weights are computed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
