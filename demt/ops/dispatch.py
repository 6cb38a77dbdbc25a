"""Which implementation runs where, and why: decided in one place, reported in words.

The Triton kernels agree with the reference in Triton's interpreter; no figures from a GPU stand in docs/benchmarks.md
yet. Until they do the kernels are off, and the environment variable DEMT_TRITON=1 turns them on.
"""

import functools
import importlib.metadata
import importlib.util
import logging
import os
from typing import NamedTuple

import torch
from torch import Tensor

_logger = logging.getLogger("demt")

#: Environment variable that turns the Triton kernels on. Read when a device is first used.
SWITCH = "DEMT_TRITON"

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Path(NamedTuple):
    """An implementation's name, ``"triton"`` or ``"torch"``, and the reason for the choice."""

    name: str
    reason: str


def best_path(device: torch.device | str, dtype: torch.dtype = torch.float32) -> Path:
    """The implementation `deform_mix` takes for maps of this type on this device, and why.

    Args:
        device: Such as ``"cpu"`` or ``torch.device("cuda:1")``. It need not be present.
        dtype: The map's type.

    Example:
        >>> best_path("cpu").name
        'torch'
        >>> best_path("cpu").reason
        "there is no kernel for device 'cpu'; torch's own kernels, a block of the map at a time"
    """
    obstacle = _device_obstacle(torch.device(device).type) or _dtype_obstacle(dtype)
    if obstacle is None:
        return Path("triton", "offsets, sampling and the channel product in one kernel")
    return Path("torch", f"{obstacle}; torch's own kernels, a block of the map at a time")


def triton_obstacle(x: Tensor, offset_weight: Tensor, weight: Tensor) -> str | None:
    """Why the Triton kernels cannot take these arguments; None if they can."""
    return _device_obstacle(x.device.type) or _dtype_obstacle(x.dtype) or _shape_obstacle(x, offset_weight, weight)


@functools.cache
def _device_obstacle(device: str) -> str | None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device != "cuda" and not interpreted:
        return f"there is no kernel for device {device!r}"
    if not interpreted and os.environ.get(SWITCH) != "1":
        return f"the Triton kernels are off; {SWITCH}=1 in the environment turns them on"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    major, minor = importlib.metadata.version("triton").split(".")[:2]
    if (int(major), int(minor)) < (3, 3):
        return "the kernels need triton 3.3"
    if device == "cuda" and torch.version.hip is not None:
        return "the kernels were never tried on ROCm"
    if device == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return "the kernels need compute capability 8.0"
    return None


def _dtype_obstacle(dtype: torch.dtype) -> str | None:
    return None if dtype in TRITON_DTYPES else f"there is no kernel for {dtype}"


def _shape_obstacle(x: Tensor, offset_weight: Tensor, weight: Tensor) -> str | None:
    _, channels, height, width = x.shape
    groups = offset_weight.shape[0] // 2
    if groups != channels or channels % 2:
        return f"the kernel wants an even number of channels with one offset each, got {channels} with {groups}"
    if max(channels, weight.shape[0], 18) * height * width >= 2**31:
        return "a map of one image has 2**31 or more elements"
    if x.numel() == 0 or weight.numel() == 0:
        return "there is nothing to compute"
    return None


@functools.cache
def log_fallback(device: torch.device, obstacle: str) -> None:
    """Say once per reason that a GPU's maps cannot take the Triton kernels, where these were asked for."""
    if device.type == "cuda" and os.environ.get(SWITCH) == "1":
        _logger.warning("demt.ops.deform_mix on %s takes torch's kernels, which are slower: %s", device, obstacle)
