"""Private names of torch that this package cannot do without, each with the reason and a public fallback."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as _module


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks of its own look at what goes into a module or comes out of it.

    Torch has no public way to ask. Where a name is missing, a module counts as hooked: it is then always called.
    """
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name, True) for name in names)


def all_modules_are_hooked() -> bool:
    """Whether hooks look at all modules, as `torch.nn.modules.module.register_module_forward_hook` sets them.

    Torch has no public way to ask. Where a name is missing, the answer is yes: maps are then never overwritten.
    """
    names = ("_global_forward_hooks", "_global_forward_pre_hooks")
    return any(getattr(_module, name, True) for name in names)


def saved_tensors_are_hooked() -> bool:
    """Whether something handles what is kept for the backward pass: checkpointing, `torch.autograd.graph.save_on_cpu`.

    Torch has no public way to ask. Where the name is missing, the answer is yes while gradients are recorded: layers
    then compute by torch's own functions.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None:
        return torch.is_grad_enabled()
    return top(False) is not None
