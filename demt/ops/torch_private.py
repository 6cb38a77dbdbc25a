"""Private names of torch that this package cannot do without, each with the reason and a public fallback."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as _module


def is_hooked(module: nn.Module) -> bool:
    """Whether anything looks at a module's inputs or outputs with hooks, its own or those of all modules.

    Torch has no public way to ask. Where a name is missing, a module counts as hooked: it is then always called.
    """
    own = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    everywhere = tuple(f"_global{name}" for name in own if name != "_backward_pre_hooks")
    return any(getattr(module, name, True) for name in own) or any(getattr(_module, name, True) for name in everywhere)
