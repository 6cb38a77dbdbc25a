"""Number types: what autocast asks for, and what coordinates need."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def float32_convolution(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """`layer(x)` in float32 at least, whatever autocast says: half precision cannot hold coordinates."""
    with without_autocast(x.device):
        dtype = compute_dtype(x.dtype)
        if layer.weight.dtype == dtype:
            return layer(x.to(dtype))  # type: ignore[no-any-return]
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.conv2d(x.to(dtype), layer.weight.to(dtype), bias, padding=layer.padding, groups=layer.groups)
