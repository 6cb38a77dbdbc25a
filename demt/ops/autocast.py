"""Autocast for operators of our own, which ``"meta"`` tensors do not know."""

import contextlib

import torch


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
