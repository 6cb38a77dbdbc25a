"""Products with a weight matrix, on a CPU by whichever of torch's two libraries uses the processor fully.

For float32 matrices torch calls MKL, which keeps to AVX2 on processors that are not Intel's; oneDNN, the library of
torch's convolutions, uses AVX-512 wherever it is and is then twice as fast.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from demt.ops.dispatch import standard_operators_are_asked
from demt.ops.torch_private import has_onednn_linear, is_transformed, onednn_linear, saved_tensors_are_hooked


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: x (..., C), weight (D, C) and bias (D,) to (..., D).

    Float32 on a CPU with AVX-512 goes through oneDNN, differentiable any number of times. All else is torch's own
    function: other devices and types, autocast, tensor subclasses, torch.func, and graphs that are compiled, exported
    or traced.
    """
    if standard_operators_are_asked():
        # As rows: runtimes add the bias to the product of two matrices in one go, and not to others.
        return F.linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    if not _onednn_takes(x, weight, bias):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias)):
        out: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        out = _onednn(rows, weight, bias)
    return out.view(*x.shape[:-1], -1)


def _onednn_takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and weight.numel() > 0
        and is_eager_on_cpu(x, weight, bias)
        and bool(torch.backends.mkldnn.enabled)
        and _has_avx512()
    )


def is_eager_on_cpu(*tensors: Tensor | None) -> bool:
    """Whether these are torch's own tensors on a CPU, computed with now and as they are: no graph is captured, no
    autocast casts them, nothing transforms functions of them.
    """
    return (
        not torch.compiler.is_compiling()
        # Before the tensors: tracing notes every look at one, and its check wants two traces alike.
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
        and not is_transformed()
        and all(each is None or (type(each) in (Tensor, nn.Parameter) and each.is_cpu) for each in tensors)
    )


def is_training_step_on_cpu(*tensors: Tensor | None) -> bool:
    """The same of tensors of one type, float32 or float64, not empty, of which gradients are recorded.

    What is written for training steps may then have a backward pass of its own.
    """
    if not (torch.is_grad_enabled() and is_eager_on_cpu(*tensors)):
        return False
    given = [each for each in tensors if each is not None]
    return (
        any(each.requires_grad for each in given)
        and given[0].dtype in (torch.float32, torch.float64)
        and all(each.dtype == given[0].dtype and each.numel() > 0 for each in given)
    )


@functools.cache
def _has_avx512() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and has_onednn_linear()
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return onednn_linear(_dense(x), _dense(weight), bias)


def _dense(x: Tensor) -> Tensor:
    """Slices of larger matrices send oneDNN to its slow reference code; whole and transposed ones do not."""
    return x if x.mT.is_contiguous() else x.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _onednn(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            linear(grad, weight.mT) if need_x else None,
            linear(grad.mT, x.mT) if need_weight else None,
            grad.sum(0) if need_bias else None,
        )


class FastLinear(TorchFunctionMode):
    """A context in which `torch.nn.functional.linear`, and so every `torch.nn.Linear`, is `demt.ops.linear`.

    It holds for the current thread. Layers keep their class, so that tools which look up the exact class (quantisation,
    counters of operations) find them. Nothing is raised that torch's own function would not raise.

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
            func = _named_linear
        return func(*args, **(kwargs or {}))


def _named_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return linear(input, weight, bias)


def fast_linear(wanted: bool = True) -> contextlib.AbstractContextManager[object]:
    """`FastLinear()` where `demt.ops.linear` differs from torch's function; elsewhere, in graphs that are compiled,
    exported or traced, and if not `wanted`, a context that does nothing.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return FastLinear() if wanted and not recorded and _has_avx512() else contextlib.nullcontext()
