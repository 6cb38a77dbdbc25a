"""Loading weights strictly, except for what a change of tasks or image channels makes new."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from demt.tasks import Task


class MultiTask(Protocol):
    """What this module needs of a model."""

    backbone: Any

    @property
    def tasks(self) -> dict[str, Task]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


_logger = logging.getLogger("demt")
_TASK_ENTRY = re.compile(r"head\.(?:mixers|queries|heads)\.(\w+)\.")


def load_weights(model: MultiTask, state: Mapping[str, Tensor], tasks: Mapping[str, Task] | None, source: str) -> None:
    """Load `state`, made for `tasks` (None: those it has heads for), into a model that may have others.

    Weights of tasks both have are kept; a task's logits are new where its channels differ; the first convolution is
    adapted where the image channels differ. One log line says what is new. The model is unchanged if this raises.

    Raises:
        ValueError: on any other missing, unexpected or differently shaped entry, or a value that is not finite.
    """
    wanted = model.state_dict()
    state = dict(state)
    channels = _channels(state) if tasks is None else {name: task.channels for name, task in tasks.items()}
    adapted = _adapt_first_convolution(model, state, wanted)
    new_tasks = [name for name in model.tasks if name not in channels]
    new_logits = [n for n, task in model.tasks.items() if n in channels and task.channels != channels[n]]
    gone_tasks = [name for name in channels if name not in model.tasks]
    replaced = tuple(f"head.heads.{task}.logits." for task in new_logits)
    state = {n: t for n, t in state.items() if _task_of(n) not in gone_tasks and not n.startswith(replaced)}
    may_miss = {name for name in wanted if _task_of(name) in new_tasks or name.startswith(replaced)}
    check_state(state, wanted, source, may_miss)
    model.load_state_dict({**{name: wanted[name] for name in may_miss}, **state})
    new = [*(f"task {n!r}" for n in new_tasks), *(f"logits of {n!r}" for n in new_logits)]
    new += ["first convolution (adapted)"] if adapted else []
    if new:
        _logger.warning("%s: loaded, except what is new: %s", source, ", ".join(new))


def _channels(state: Mapping[str, Tensor]) -> dict[str, int]:
    matches = ((re.fullmatch(r"head\.heads\.(\w+)\.logits\.weight", name), tensor) for name, tensor in state.items())
    return {match.group(1): tensor.shape[0] for match, tensor in matches if match}


def _task_of(name: str) -> str | None:
    match = _TASK_ENTRY.match(name)
    return match.group(1) if match else None


def _adapt_first_convolution(model: MultiTask, state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    first = (getattr(model.backbone, "pretrained_cfg", None) or {}).get("first_conv")
    adapted = False
    for name in [f"backbone.{f}.weight" for f in ([first] if isinstance(first, str) else first or [])]:
        old, new = state.get(name), wanted.get(name)
        if old is None or new is None or old.ndim != 4 or old.shape[1] == new.shape[1] or old.shape[1] != 3:
            continue
        if old.shape[0] == new.shape[0] and old.shape[2:] == new.shape[2:]:
            state[name] = adapt_input_conv(new.shape[1], old)
            adapted = True
    return adapted


def check_state(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, may_miss: Collection[str] = ()
) -> None:
    """Raise `ValueError` unless `state` has the names and shapes of `wanted` (but `may_miss`), and finite values."""
    problems = [f"missing {name!r}" for name in wanted if name not in state and name not in may_miss]
    problems += [f"unexpected {name!r}" for name in state if name not in wanted]
    problems += [
        f"{name!r} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"Weights of {source} do not fit the model: {'; '.join(problems[:5])}{more}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"Weights of {source} are damaged: {name!r} holds NaN or infinite values")
