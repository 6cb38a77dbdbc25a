"""What torch is doing with what is computed now, and so what a faster way may take for granted.

Private names of torch that this package cannot do without stand here and nowhere else, each with the reason and a
public fallback.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as _module

_standard: contextvars.ContextVar[bool] = contextvars.ContextVar("demt_standard_operators", default=False)


@contextlib.contextmanager
def standard_operators() -> Iterator[None]:
    """A context, of this thread alone, for capturing a graph of torch's own operators, as other runtimes take them."""
    token = _standard.set(True)
    try:
        yield
    finally:
        _standard.reset(token)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def standard_operators_are_asked() -> bool:
    """Whether this is within `standard_operators`."""
    return _standard.get()


def is_eager_on_cpu(*tensors: Tensor | None) -> bool:
    """Whether these are torch's own tensors on a CPU, computed with now and as they are: no graph is captured, no
    autocast casts them, and nothing is at work that knows torch's operators only, such as torch.func, forward mode or a
    counter of FLOPs.

    Torch has no public way to ask for the latter. Where a name is missing, the answer is no: torch's own functions are
    then taken.
    """
    # Before the tensors: tracing notes every look at one, and its check wants two traces alike.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    interpreter = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    depth = getattr(torch._C, "_len_torch_dispatch_stack", None)
    level: Any = getattr(forward_ad, "_current_level", None)
    if interpreter is None or depth is None or level is None:
        return False
    if torch.is_autocast_enabled("cpu") or interpreter() is not None or depth() > 0 or level >= 0:
        return False
    for each in tensors:
        if each is not None and not (type(each) in (Tensor, nn.Parameter) and each.is_cpu):
            return False
    return True


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


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks of its own look at what goes into a module or comes out of it.

    Torch has no public way to ask. Where a name is missing, a module counts as hooked: it is then always called.
    """
    try:
        forward = module._forward_hooks or module._forward_pre_hooks
        return bool(forward or module._backward_hooks or module._backward_pre_hooks)
    except AttributeError:
        return True


def all_modules_are_hooked() -> bool:
    """Whether hooks look at all modules, as `torch.nn.modules.module.register_module_forward_hook` sets them.

    Torch has no public way to ask. Where a name is missing, the answer is yes: maps are then never overwritten.
    """
    return bool(getattr(_module, "_global_forward_hooks", True) or getattr(_module, "_global_forward_pre_hooks", True))


def saved_tensors_are_hooked() -> bool:
    """Whether something handles what is kept for the backward pass: checkpointing, `torch.autograd.graph.save_on_cpu`.

    Torch has no public way to ask. Where the name is missing, the answer is yes while gradients are recorded: layers
    then compute by torch's own functions.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None:
        return torch.is_grad_enabled()
    return top(False) is not None


@functools.cache
def has_onednn_linear() -> bool:
    """Whether this torch has `onednn_linear` and the processor AVX-512, where it is the faster one.

    Where the name is missing, torch's own function is taken.
    """
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.mT + bias of float32 matrices by oneDNN. `torch.nn.functional.linear` leaves no choice of library."""
    # Slices of larger matrices send oneDNN to its slow reference code; whole and transposed ones do not.
    x = x if x.mT.is_contiguous() else x.contiguous()
    weight = weight if weight.mT.is_contiguous() else weight.contiguous()
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def open_sizes() -> contextlib.AbstractContextManager[object]:
    """A context in which a captured graph gets no branch of its own for sizes of 0 and 1, which would bind it to larger
    ones. `torch.onnx.export` does the same, but there is no public switch.

    Where the name is missing, the context does nothing: a graph that is bound to some sizes is refused when it is
    compared with the model.
    """
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):
        return contextlib.nullcontext()
    return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined, no-any-return]


def has_cpp_compiler() -> bool:
    """Whether torch finds a C++ compiler, which packages of AOTInductor need. There is no public way to ask.

    Where the names are missing, the answer is yes: compiling then says what is missing.
    """
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler
    except ImportError:
        return True
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def compile_package(program: torch.export.ExportedProgram, path: str, metadata: dict[str, str]) -> Any:
    """Compile a program into a package of AOTInductor at `path`, and return what runs it.

    Torch documents both functions under their private module; there is no other way to write such a package.

    Raises:
        ImportError: if this torch has none.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    aoti_compile_and_package(program, package_path=path, inductor_configs={"aot_inductor.metadata": metadata})
    return aoti_load_package(path)
