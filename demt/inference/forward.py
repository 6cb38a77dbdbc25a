"""Running a model: its mode in several threads, its precision, and checks for NaN."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from demt.models import MultiTaskModel

Model = TypeVar("Model", bound=nn.Module)

#: Names of precisions, and the types of torch that autocast uses for them.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def in_eval_mode(model: Model) -> Model:
    """The model itself where all its modules are in eval mode, else a copy that shares its tensors and hooks.

    Setting the mode back and forth instead would be seen by every other thread that runs the model, and one that trains
    it would train in eval mode for that time. The copy holds no weights of its own, and makes no use of
    ``model.compile()``.

    Raises:
        ValueError: if the model is in training mode and holds something that cannot be copied.
    """
    if not any(module.training for module in model.modules()):
        return model
    try:
        return twin(model)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"Call model.eval() first: the model is in training mode and cannot be copied: {error}"
        ) from error


def twin(model: Model) -> Model:
    """A copy of the model in eval mode that shares its tensors, and has its hooks; hooks added to it are its own.

    Raises:
        TypeError, RuntimeError: if the model holds something that cannot be copied.
    """
    shared: dict[int, object] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) or name in ("_parameters", "_buffers"):
                shared[id(value)] = value
            elif "hooks" in name:
                shared[id(value)] = copy.copy(value)
    copied = copy.deepcopy(model, shared)
    for module in copied.modules():
        module.training = False
    return copied


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it all modules are in eval mode; afterwards each has its own mode again.

    For a model that one thread uses, as in training: unlike the copy of `in_eval_mode`, it may be compiled or sharded.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def finite_logits(model: MultiTaskModel, images: Tensor) -> dict[str, Tensor]:
    """What a model gives for images (B, C, H, W).

    Raises:
        ValueError: for NaN or infinite logits: an argmax or threshold of these looks like any prediction.
    """
    logits = model(images)
    if broken := not_finite(logits):
        raise ValueError(
            f"The model gives NaN or infinite values for {', '.join(broken)}: its weights hold some, or "
            f"{images.dtype} cannot represent its values; check the weights, or use float32"
        )
    return logits


def not_finite(logits: Mapping[str, Tensor]) -> list[str]:
    """The tasks whose logits hold NaN or infinite values."""
    finite = torch.stack([maps.isfinite().all() for maps in logits.values()]).tolist()
    return [name for name, good in zip(logits, finite) if not good]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a model runs in a precision: ``"fp32"`` (as it is), ``"bf16"`` or ``"fp16"``.

    Convolutions and products of matrices are then computed in 16 bits; norms, sums over an image, and the offsets and
    coordinates of deformable sampling stay float32. The model's weights stay as they are.

    Raises:
        ValueError: see `check_precision`.

    Example:
        >>> with autocast(torch.device("cpu"), "fp32"):
        ...     torch.is_autocast_enabled("cpu")
        False
    """
    check_precision(device, precision)
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def check_precision(device: torch.device, precision: str) -> None:
    """Whether models run in a precision here.

    Raises:
        ValueError: for another name than those of `PRECISIONS`, fp16 on a CPU, or bf16 on one without instructions for
            it: torch would imitate them, far more slowly than it computes in float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Expected `precision` to be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("Expected `precision` to be fp32 or bf16 on a CPU, got fp16, which needs a GPU")
    if precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        raise ValueError(
            "This processor has no instructions for bf16 (AVX512-BF16, AMX or Arm's BF16), and would be slower than in "
            "float32: use precision fp32, or another device"
        )


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16; yes where this torch has no `torch.cpu.get_capabilities` to ask."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return ask is None or any(has is True for name, has in ask().items() if "bf16" in name)


def model_digest(model: MultiTaskModel) -> str:
    """A digest of what distinguishes a model: weights, outputs, and how images are prepared, as hexadecimal digits.

    Not where it was loaded from: a model that was moved is the same.
    """
    cfg, outputs = model.pretrained_cfg, [(task.name, task.channels, task.activation) for task in model.tasks.values()]
    digest = hashlib.sha256(repr((model.config.family, outputs, cfg.mean, cfg.std, cfg.max_size)).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
