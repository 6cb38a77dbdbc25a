"""The loss of all tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor, distributed, nn

from demt.labels import (
    check_ignore_index,
    check_shapes,
    check_summary,
    drop_images_without_foreground,
    labelled_mask,
    resize_logits,
    value_summary,
)
from demt.losses.balancing import DynamicWeightAverage, FixedWeights, UncertaintyWeights
from demt.plugins import LOSSES
from demt.tasks import TaskSpec, resolve_tasks

Balancing = Literal["fixed", "uncertainty", "dwa"]


class LossOutput(NamedTuple):
    """What `MultiTaskLoss` returns.

    Attributes:
        total: Scalar to call ``backward()`` on.
        parts: Each task's loss before weighting.
        weights: Each task's current factor.
        labelled: Each task's number of labelled pixels in this batch (with `across_processes`, in those of all
            processes); 0 where the task took no part.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, Tensor]
    labelled: dict[str, Tensor]


class MultiTaskLoss(nn.Module):
    """Weighted sum of the tasks' losses, with partial labels.

    A task that is missing from a batch's labels, or whose label maps are fully ignored, contributes exactly 0, and its
    logits get a gradient of exactly 0. So every parameter has a gradient in every step, as
    ``DistributedDataParallel(find_unused_parameters=False)`` demands.

    With several processes each takes the mean over its own labelled pixels and gradients are averaged over all
    processes, also over those without labels for a task: a pixel counts for more on a process with fewer of them.
    With `across_processes` every pixel counts alike: losses and gradients are those of one process with all images.
    (The balance of foreground and background in saliency's loss stays that of each process's images.)

    Args:
        tasks: As for `demt.tasks.resolve_tasks`: ``"nyud"``, or a mapping from task name to channels or `Task`.
        weights: Factor of each task, by name; tasks left out keep their default: `Task.loss_weight` with
            ``balancing="fixed"``, else 1.
        balancing: ``"fixed"``; ``"uncertainty"`` (learned log-variances; give ``parameters()`` of this module to the
            optimiser, and wrap it in DistributedDataParallel, too); ``"dwa"`` (dynamic weight average; call
            `step_epoch` after each epoch). Gradient-based balancing: `demt.losses.jacobian_backward`.
        temperature: Of ``"dwa"``.
        across_processes: Weigh each process's losses by its share of all labelled pixels, times the number of
            processes: the mean over processes is then the mean over all pixels. Call it on every process.
        validate: Check values of labels and logits in every call. This waits for the device once per step; shapes are
            checked in any case.

    Raises:
        ValueError: for an unknown loss, balancing or task name, a negative weight, or 255 classes and more of which one
            is the default ignore index.

    Example:
        >>> criterion = MultiTaskLoss({"semseg": 4, "depth": 1})
        >>> logits = {"semseg": torch.zeros(2, 4, 8, 8), "depth": torch.zeros(2, 1, 8, 8)}
        >>> result = criterion(logits, {"depth": torch.full((2, 8, 8), 3.0)})
        >>> result.total, result.parts["semseg"]
        (tensor(3.), tensor(0.))
    """

    if TYPE_CHECKING:

        def __call__(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossOutput: ...

    def __init__(
        self,
        tasks: str | TaskSpec,
        *,
        weights: Mapping[str, float] | None = None,
        balancing: Balancing = "fixed",
        temperature: float = 2.0,
        across_processes: bool = False,
        validate: bool = True,
    ) -> None:
        super().__init__()
        self.tasks = resolve_tasks(tasks)
        self.across_processes = across_processes
        self.validate = validate
        for task in self.tasks.values():
            check_ignore_index(task)
        self._functions = {name: LOSSES.get(task.loss, name) for name, task in self.tasks.items()}
        if unknown := sorted(set(weights or {}) - set(self.tasks)):
            raise ValueError(f"`weights` names unknown tasks {unknown}; tasks are {list(self.tasks)}")
        default = {name: task.loss_weight if balancing == "fixed" else 1.0 for name, task in self.tasks.items()}
        values = list({**default, **(weights or {})}.values())
        if any(not value >= 0 for value in values):
            raise ValueError(f"Expected `weights` >= 0, got {dict(zip(self.tasks, values))}")
        self.balancer: FixedWeights | UncertaintyWeights | DynamicWeightAverage
        if balancing == "fixed":
            self.balancer = FixedWeights(values)
        elif balancing == "uncertainty":
            regression = ("identity", "unit")
            classification = [task.activation not in regression for task in self.tasks.values()]
            self.balancer = UncertaintyWeights(values, classification=classification)
        elif balancing == "dwa":
            self.balancer = DynamicWeightAverage(values, temperature=temperature)
        else:
            raise ValueError(f"Expected `balancing` to be one of {get_args(Balancing)}, got {balancing!r}")

    def forward(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> LossOutput:
        """Loss of one batch.

        Args:
            outputs: The model's logits (B, C, h, w) of every task; smaller ones are upsampled to the labels' size.
            targets: Label maps by task, (B, H, W) or (B, C, H, W). Tasks may be missing; other keys are ignored.

        Raises:
            ValueError: for missing logits, shapes that do not fit, and, with ``validate``, labels out of range or
                logits that are not finite.
        """
        if missing := [name for name in self.tasks if name not in outputs]:
            raise ValueError(f"`outputs` lacks logits of tasks {missing}; it has {sorted(outputs)}")
        prepared = self._prepare(outputs, targets)
        parts, labelled = {}, {}
        for name in self.tasks:
            # An empty slice: its sum is 0 and its gradient is 0 for every logit, be it NaN.
            parts[name] = outputs[name][:0].sum(dtype=torch.promote_types(outputs[name].dtype, torch.float32))
            labelled[name] = torch.zeros((), dtype=torch.long, device=outputs[name].device)
            if name in prepared:
                parts[name] = parts[name] + self._part(name, *prepared[name])
                labelled[name] = labelled_mask(self.tasks[name], prepared[name][1]).sum()
        counts = torch.stack(list(labelled.values()))
        if self.across_processes and distributed.is_available() and distributed.is_initialized():
            own, counts = counts, counts.clone()
            distributed.all_reduce(counts)
            shares = own / counts.clamp_min(1) * distributed.get_world_size()
            parts = {name: part * share for (name, part), share in zip(parts.items(), shares.unbind())}
        total, weights = self.balancer(torch.stack(list(parts.values())), counts > 0)
        return LossOutput(total, parts, dict(zip(self.tasks, weights.unbind())), dict(zip(self.tasks, counts.unbind())))

    def step_epoch(self) -> None:
        """Tell the balancing that an epoch is over; only ``"dwa"`` needs to know."""
        if isinstance(self.balancer, DynamicWeightAverage):
            self.balancer.step_epoch()

    def _prepare(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        pairs = {}
        for name, task in self.tasks.items():
            if targets.get(name) is None:
                continue
            logits, target = outputs[name], targets[name]
            check_shapes(task, logits, target)
            if task.foreground_only:
                target = drop_images_without_foreground(target, task.ignore_index)
            pairs[name] = (logits, target)
        if self.validate and pairs:
            summaries = torch.stack([value_summary(self.tasks[name], *pair) for name, pair in pairs.items()])
            for name, summary in zip(pairs, summaries.tolist()):
                check_summary(self.tasks[name], summary)
        return pairs

    def _part(self, name: str, logits: Tensor, target: Tensor) -> Tensor:
        task = self.tasks[name]
        builtin = isinstance(task.loss, str) and self._functions[name].__module__.startswith("demt.")
        # Built-in losses are 0 without labels; of a user's function only those with labels are asked.
        if not builtin and not bool(labelled_mask(task, target).any()):
            return torch.zeros((), device=logits.device)
        loss = self._functions[name](
            resize_logits(logits, target), target, ignore_index=task.ignore_index, **(task.loss_args or {})
        )
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"Task {name!r}: expected its loss to return a scalar tensor, got {shape}")
        return loss
