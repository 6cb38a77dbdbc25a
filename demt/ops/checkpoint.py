"""Gradient checkpointing that changes no number: batch normalisation counts each batch once.

The backward pass calls a checkpointed module a second time. In training mode batch normalisation would then add the
same batch to its running statistics again, so the second time it gets copies of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(owner: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, whose activations are computed again in the backward pass instead of stored.

    Args:
        owner: Holds every module that `function` calls.
        function: A module or a method.
        args: Its arguments.
    """
    if torch.compiler.is_compiling():
        # A compiled graph writes running statistics once, whatever it computes again.
        return checkpoint(function, *args, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_copied(owner)

    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def keep_statistics_in_backward(owner: nn.Module, outputs: Sequence[Tensor]) -> None:
    """Keep running statistics while gradients go through a module that checkpoints on its own, as timm's models do.

    Args:
        owner: The module, after its forward pass.
        outputs: What it gave; statistics are kept from their first gradient to the last one of the parameters.
    """
    inside = [parameter for parameter in owner.parameters() if parameter.requires_grad]
    outputs = [output for output in outputs if output.requires_grad]
    if not inside or not outputs or torch.compiler.is_compiling():
        return
    kept = _statistics_copied(owner)

    def begin(_: Any) -> None:
        kept.__enter__()

    def end(_: Any) -> None:
        kept.__exit__(None, None, None)
        last.remove()

    register_multi_grad_hook(outputs, begin, mode="any")
    last = register_multi_grad_hook(inside, end, mode="all")


@contextmanager
def _statistics_copied(owner: nn.Module) -> Iterator[None]:
    norms = [m for m in owner.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    buffers = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in buffers:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in buffers:
            setattr(norm, name, buffer)
