"""What the operators ask of tensors: shapes, devices and types, and types under autocast."""

import contextlib

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


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


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast casts to on this device now; None where it is off."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which types stay as they are: autocast's setting reaches into an operator's implementation."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
