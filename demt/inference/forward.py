"""Running a model whose mode may be changed by another thread, and whose weights may hold NaN."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from demt.models import MultiTaskModel

Model = TypeVar("Model", bound=nn.Module)


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
    shared = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) or name in ("_parameters", "_buffers") or "hooks" in name:
                shared[id(value)] = value
    try:
        twin = copy.deepcopy(model, shared)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"Call model.eval() first: the model is in training mode and not to be copied: {error}"
        ) from error
    for module in twin.modules():
        module.training = False
    return twin


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
    finite = torch.stack([maps.isfinite().all() for maps in logits.values()]).tolist()
    if broken := [name for name, good in zip(logits, finite) if not good]:
        raise ValueError(
            f"The model gives NaN or infinite values for {', '.join(broken)}: its weights hold some, or "
            f"{images.dtype} is too small for its values; check the weights, or use float32"
        )
    return logits
