"""What the processes of a run exchange besides gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


def agree(accelerator: Accelerator, stop: bool, error: Exception | None = None) -> tuple[bool, Exception | None]:
    """Whether any process wants to stop, and an error of any: its own where it has one. Called in all."""
    if accelerator.num_processes == 1:
        return stop, error
    flags = torch.tensor([float(stop), float(error is not None)], device=accelerator.device)
    stops, errors = accelerator.reduce(flags).tolist()
    if errors:
        texts = [text for text in gather_object([error and str(error)]) if text]
        error = error or ValueError(f"Another process stopped: {texts[0]}")
    return stops > 0, error


def in_main(accelerator: Accelerator, function: Callable[[], T]) -> T | None:
    """Call a function in the main process, and raise its error in all. Called in all."""
    result: T | None = None
    error: Exception | None = None
    if accelerator.is_main_process:
        try:
            result = function()
        except (ValueError, OSError) as raised:
            error = raised
    error = agree(accelerator, False, error)[1]
    if error is not None:
        raise error
    return result
