"""Names for losses and metrics, so that a task can say ``loss="my_loss"`` in a configuration file.

A configuration holds names, never code. The built-in losses and metrics stand in the same two tables as a user's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


class Plugins(Generic[F]):
    """A table of named callables.

    Args:
        kind: What the table holds, for error messages: ``"loss"`` or ``"metric"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._table: dict[str, F] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator that enters a callable under `name`.

        Raises:
            ValueError: if another callable has that name already.
        """

        def enter(function: F) -> F:
            known = self._table.get(name, function)
            # Running a notebook cell or a reloaded module again brings the same function as a new object.
            if _origin(known) != _origin(function):
                raise ValueError(f"A {self.kind} named {name!r} exists already; register yours under another name")
            self._table[name] = function
            return function

        return enter

    def get(self, spec: str | F, task: str) -> F:
        """The callable that task `task` means by `spec`: a name, or the callable itself.

        Raises:
            ValueError: if no callable has that name.
        """
        if callable(spec):
            return spec
        if spec not in self._table:
            raise ValueError(
                f"Task {task!r} names the {self.kind} {spec!r}, but known names are {self.names()}. Register yours "
                f"with @demt.plugins.register_{self.kind}({spec!r}), or pass the function as `{self.kind}` of the task"
            )
        return self._table[spec]

    def name_of(self, spec: str | F) -> str:
        """The name that stands for `spec` in a configuration: its registered name, else its ``__name__``."""
        if isinstance(spec, str):
            return spec
        registered = [name for name, function in self._table.items() if function is spec]
        return registered[0] if registered else getattr(spec, "__name__", type(spec).__name__)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._table)


def _origin(function: Callable[..., Any]) -> tuple[str, str]:
    return (function.__module__, getattr(function, "__qualname__", repr(function)))


#: Losses: ``loss(logits, target, *, ignore_index, **loss_args) -> scalar``.
LOSSES: Plugins[Callable[..., Tensor]] = Plugins("loss")
#: Metric factories: ``factory(task) -> torchmetrics.Metric``.
METRICS: Plugins[Callable[..., Any]] = Plugins("metric")


def register_loss(name: str) -> Callable[[F], F]:
    """Decorator: make a function usable as ``Task(loss=name)``.

    The function is called as ``loss(logits, target, *, ignore_index, **task.loss_args)`` with logits
    (B, C, H, W) at the labels' size, and returns a scalar: the mean over valid pixels.

    Raises:
        ValueError: if another loss has that name already.

    Example:
        >>> from demt.plugins import LOSSES, register_loss
        >>> @register_loss("huber_doc")
        ... def huber(logits, target, *, ignore_index):
        ...     valid = target != ignore_index
        ...     return torch.nn.functional.huber_loss(logits[valid], target[valid])
        >>> "huber_doc" in LOSSES.names()
        True
    """
    return LOSSES.register(name)  # type: ignore[arg-type, return-value]


def register_metric(name: str) -> Callable[[F], F]:
    """Decorator: make a metric factory usable as ``Task(metric=name)``.

    The factory is called as ``factory(task)`` and returns a `torchmetrics.Metric` whose ``update(preds, target)``
    takes ``task.predict(logits)`` and the label map, ignored pixels included (`demt.metrics.ValidPixels` drops them).

    Raises:
        ValueError: if another metric has that name already.

    Example:
        >>> from torchmetrics import MeanAbsoluteError
        >>> from demt.metrics import ValidPixels
        >>> from demt.plugins import METRICS, register_metric
        >>> @register_metric("mae_doc")
        ... def mae(task):
        ...     return ValidPixels(MeanAbsoluteError(), ignore_index=task.ignore_index)
        >>> "mae_doc" in METRICS.names()
        True
    """
    return METRICS.register(name)  # type: ignore[arg-type, return-value]
