"""A model in eval mode whose owner may be training it, in this thread or another."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

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
