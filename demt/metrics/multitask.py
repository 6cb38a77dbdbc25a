"""The metrics of all tasks at once."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from demt.labels import (
    NoLabelsError,
    check_ignore_index,
    check_shapes,
    check_summary,
    drop_images_without_foreground,
    join_summaries,
    label_map,
    resize_logits,
    value_summary,
)
from demt.metrics.depth import DepthMetrics, RootMeanSquaredError
from demt.metrics.edges import EdgeMetrics
from demt.metrics.normals import NormalsMetrics
from demt.metrics.report import result_table
from demt.metrics.saliency import MaxF
from demt.metrics.segmentation import MeanIoU
from demt.plugins import METRICS, register_metric
from demt.protocols import Protocol, get_protocol
from demt.tasks import DATASETS, Task, TaskSpec, is_class_map, resolve_tasks


@register_metric("miou")
def _miou(task: Task) -> Metric:
    return MeanIoU(task.channels, ignore_index=task.ignore_index, validate=False)


@register_metric("normals")
def _normals(task: Task) -> Metric:
    return NormalsMetrics(ignore_index=task.ignore_index, validate=False)


@register_metric("depth")
def _depth(task: Task) -> Metric:
    return DepthMetrics(ignore_index=task.ignore_index)


@register_metric("rmse")
def _rmse(task: Task) -> Metric:
    return RootMeanSquaredError(ignore_index=task.ignore_index, validate=False)


@register_metric("maxf")
def _maxf(task: Task, *, second_sigmoid: bool = False) -> Metric:
    return MaxF(second_sigmoid=second_sigmoid, ignore_index=task.ignore_index, validate=False)


@register_metric("boundary")
def _boundary(task: Task, **settings: Any) -> Metric:
    return EdgeMetrics(ignore_index=task.ignore_index, **{"max_distance": 0.0075, **settings})


class MultiTaskMetrics(nn.Module):
    """Metrics of all tasks under a named protocol, with partial labels, in memory that does not grow.

    Args:
        tasks: As for `demt.tasks.resolve_tasks`: ``"nyud"``, or a mapping from task name to channels or `Task`.
        protocol: ``"atrc"`` (DeMT, DeGMix), ``"invpt"`` or ``"mtdp"``, or a `Protocol` of your own.
        dataset: ``"nyud"`` or ``"pascal"``: settles the distance at which boundaries match. Needed for boundaries only;
            by default the data set that `tasks` names.
        validate: Check values of labels and logits in every `update`, which waits for the device; else in `compute`.
            Shapes are checked in any case.

    Raises:
        ValueError: for an unknown metric, protocol or data set, a boundary task without `dataset`, or 255 classes and
            more of which one is the default ignore index.

    Example:
        >>> metrics = MultiTaskMetrics({"semseg": 3, "depth": 1})
        >>> logits = {"semseg": torch.eye(3)[None, :, :, None], "depth": torch.ones(1, 1, 3, 1)}
        >>> metrics.update(logits, {"semseg": torch.tensor([[[0], [1], [255]]]), "depth": torch.ones(1, 3, 1) * 2})
        >>> {name: round(value, 3) for name, value in metrics.compute().items()}
        {'semseg/miou': 0.667, 'depth/rmse': 1.0, 'depth/abs_rel': 0.5, 'depth/delta1': 0.0}
    """

    def __init__(
        self,
        tasks: str | TaskSpec,
        *,
        protocol: str | Protocol = "atrc",
        dataset: str | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__()
        self.tasks = resolve_tasks(tasks)
        self.protocol = get_protocol(protocol)
        self.dataset = tasks if dataset is None and isinstance(tasks, str) else dataset
        if self.dataset is not None and self.dataset not in DATASETS:
            self.protocol.settings(self.dataset)
        self.validate = validate
        for task in self.tasks.values():
            check_ignore_index(task)
        self._unchecked: dict[str, Tensor] = {}
        self.metrics = nn.ModuleDict({name: self._build(task) for name, task in self.tasks.items()})
        self.results: dict[str, float] | None = None

    def _build(self, task: Task) -> Metric:
        factory = METRICS.get(task.metric, task.name)
        if task.metric == "maxf":
            return factory(task, second_sigmoid=self.protocol.second_sigmoid)
        if task.metric == "boundary":
            return factory(task, **self._edge_settings(task.name))
        metric = factory(task)
        if not isinstance(metric, Metric):
            raise ValueError(
                f"Task {task.name!r}: expected its metric factory to return a torchmetrics.Metric, got {metric!r}"
            )
        return metric

    def _edge_settings(self, name: str) -> dict[str, Any]:
        if self.dataset is None:
            raise ValueError(f"Task {name!r}: boundary scores need `dataset`: 'nyud' or 'pascal'")
        distance = self.protocol.settings(self.dataset).max_distance
        return {"max_distance": distance, "nms": self.protocol.edge_nms, "gt": self.protocol.edge_gt}

    @torch.no_grad()
    def update(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            outputs: The model's logits (B, C, h, w); smaller ones are upsampled to the labels' size.
            targets: Label maps by task, (B, H, W) or (B, C, H, W). Tasks may be missing; other keys are ignored.

        Raises:
            ValueError: naming the task: for missing logits, shapes that do not fit, and, with ``validate``, labels out
                of range or logits that are not finite. Nothing of the batch is counted then.
        """
        self.results = None
        pairs = {}
        for name, task in self.tasks.items():
            if targets.get(name) is None:
                continue
            if name not in outputs:
                raise ValueError(
                    f"`targets` has labels of task {name!r} but `outputs` no logits; it has {sorted(outputs)}"
                )
            check_shapes(task, outputs[name], targets[name])
            target = targets[name]
            if task.foreground_only:
                target = drop_images_without_foreground(target, task.ignore_index)
            pairs[name] = (outputs[name], target)
        for name, pair in pairs.items():
            summary = value_summary(self.tasks[name], *pair)
            before = self._unchecked.get(name, summary)
            self._unchecked[name] = join_summaries(before, summary)
        if self.validate:
            self._check_values()
        for name, (logits, target) in pairs.items():
            task = self.tasks[name]
            preds = task.predict(resize_logits(logits, target))
            target = label_map(target) if is_class_map(task) or task.channels == 1 else target
            try:
                self._metric(name).update(preds, target)
            except ValueError as error:
                raise ValueError(f"Task {name!r}: {error}") from error

    def _check_values(self) -> None:
        unchecked, self._unchecked = self._unchecked, {}
        if unchecked:
            for name, summary in zip(unchecked, torch.stack([*unchecked.values()]).tolist()):
                check_summary(self.tasks[name], summary)

    def compute(self) -> dict[str, float]:
        """Results over all batches and processes, by ``"task/metric"``, e.g. ``"semseg/miou"``.

        Shares lie in [0, 1], angles are in degrees, depth in its unit. A task without a single label has no results,
        and a warning says so. With several processes, call it on all of them.

        Raises:
            ValueError: if no task had a labelled pixel; without ``validate``, for labels out of range or logits that
                were not finite.
        """
        self._check_values()
        results: dict[str, float] = {}
        unlabelled = []
        for name in self.tasks:
            with warnings.catch_warnings():
                # A process may have seen no label of a task that others have seen.
                warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
                try:
                    value = self._metric(name).compute()
                except NoLabelsError:
                    unlabelled.append(name)
                    continue
            named = value if isinstance(value, Mapping) else {self._metric_name(name): value}
            results.update({f"{name}/{key}": float(number) for key, number in named.items()})
        if not results:
            raise ValueError(f"No labelled pixel of the tasks {unlabelled} has been given to `update`")
        if unlabelled:
            warnings.warn(f"No labelled pixel of {', '.join(unlabelled)}: there are no results of that", stacklevel=2)
        self.results = results
        return dict(results)

    def reset(self) -> None:
        """Reset to the initial state."""
        self.results = None
        self._unchecked = {}
        for name in self.tasks:
            self._metric(name).reset()

    def table(self, title: str | None = None) -> Table:
        """Results of the last `compute` as a table of rich, below a title: by default the protocol and data set.

        Raises:
            ValueError: if `compute` has not been called since the last `update`.
        """
        if self.results is None:
            # Computing here would make processes wait for each other when only one of them prints.
            raise ValueError("Nothing to show: call `compute` (on every process) first")
        if title is None:
            title = f"protocol {self.protocol.name}" + (f", {self.dataset}" if self.dataset else "")
        notes = {}
        for name, task in self.tasks.items():
            if task.metric == "boundary":
                notes[name] = ", ".join(f"{key} {value}" for key, value in self._edge_settings(name).items())
            elif task.metric == "maxf" and self.protocol.second_sigmoid:
                notes[name] = "second sigmoid"
        return result_table(self.results, self.tasks, title=title, notes=notes)

    def print_table(self, console: Console | None = None, *, title: str | None = None) -> None:
        """Print `table`, to the terminal or to a console of rich."""
        (console or Console()).print(self.table(title))

    def __str__(self) -> str:
        if self.results is None:
            return repr(self)
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric

    def _metric_name(self, name: str) -> str:
        label = METRICS.name_of(self.tasks[name].metric)
        return label if label.isidentifier() else "metric"
