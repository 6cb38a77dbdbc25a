"""The products of plain `torch.nn.Linear` layers through `demt.ops.linear`, without another class of layer.

Tools that look up the exact class (quantisation, counters of operations) find the layers as torch has them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from demt.ops.linear import _has_avx512, linear
from demt.ops.torch_private import saved_tensors_are_hooked


class FastLinear(TorchFunctionMode):
    """A context in which `torch.nn.functional.linear`, and so every `torch.nn.Linear`, is `demt.ops.linear`.

    It holds for the current thread. Nothing is raised that torch's own function would not raise.

    Example:
        >>> layer, x = torch.nn.Linear(4, 2), torch.ones(3, 4)
        >>> with FastLinear():
        ...     y = layer(x)
        >>> torch.allclose(y, layer(x))
        True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Checkpointing computes again outside this context, and wants the same tensors to be kept as the first time.
        if func is F.linear and not saved_tensors_are_hooked():
            func = _linear
        return func(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return linear(input, weight, bias)


def fast_linear(wanted: bool = True) -> contextlib.AbstractContextManager[object]:
    """`FastLinear()` where `demt.ops.linear` differs from torch's function; elsewhere, in graphs that are compiled,
    exported or traced, and if not `wanted`, a context that does nothing.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return FastLinear() if wanted and not recorded and _has_avx512() else contextlib.nullcontext()
