"""Autocast for operators of our own, on devices that may not know it (such as ``"meta"``)."""

import contextlib

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast casts to on this device now; None where it is off."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which types stay as they are: autocast's setting reaches into an operator's implementation."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
