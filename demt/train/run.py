"""Everything a training run needs, put together from its recipe, on whatever processes Accelerate finds."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from demt.config import each_channel
from demt.data import Mixture, MultiTaskDataset
from demt.data.dataset import MultiTaskSubset, as_multitask
from demt.inference.forward import evaluating
from demt.losses import MultiTaskLoss
from demt.metrics import MultiTaskMetrics
from demt.models import MultiTaskModel
from demt.protocols import PROTOCOLS
from demt.tasks import Task, is_class_map
from demt.train.data import Batches, is_published, learnt_from, open_dataset, set_transform, to_device
from demt.train.evaluation import evaluate, make_accelerator
from demt.train.optim import make_optimizer, make_schedule
from demt.train.parts import choose_parameters, merged_state, parameter_table
from demt.train.reading import sources_of
from demt.train.recipe import Recipe
from demt.train.start import make_model, state_sizes

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_logger = logging.getLogger("demt")


def accelerator_for(recipe: Recipe) -> Accelerator:
    """Accelerate's view of the processes; `train_loader` makes the batches of each.

    Raises:
        ValueError: if the batch does not divide among the processes, or the device lacks the precision.
    """
    accelerator = make_accelerator(
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.accumulate,
        log_with=list(recipe.trackers) or None,
        project_dir=recipe.out,
        step_scheduler_with_optimizer=False,
    )
    parts = accelerator.num_processes * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"Expected `batch_size` to be a multiple of {accelerator.num_processes} processes times "
            f"{recipe.accumulate} accumulated parts, got {recipe.batch_size}"
        )
    if accelerator.distributed_type == DistributedType.FSDP and (recipe.ema is not None or recipe.balancing != "fixed"):
        raise ValueError("FSDP works without `ema` and with `balancing: fixed`; turn them off, or use DDP")
    return accelerator


def make_metrics(tasks: dict[str, Task], dataset: str, protocol: str | None) -> MultiTaskMetrics:
    """Metrics under a protocol; boundaries of other data sets than NYUD-v2 match at PASCAL-Context's distance."""
    return MultiTaskMetrics(
        tasks,
        protocol=protocol if protocol in PROTOCOLS else "atrc",
        dataset=dataset if dataset in ("nyud", "pascal") else "pascal",
    )


class Run:
    """The parts of a run, prepared for training.

    Args:
        recipe: What to train.
        train_set, val_set, model: Used instead of the recipe's.
        accelerator: What `accelerator_for` gives, by default a new one.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        train_set: MultiTaskDataset | None = None,
        val_set: MultiTaskDataset | None = None,
        model: MultiTaskModel | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.recipe = recipe
        self.accelerator = accelerator or accelerator_for(recipe)
        data = recipe.data
        self.train_set = open_dataset(data, "train") if train_set is None else as_multitask(train_set)
        known = self.train_set.tasks if train_set is None else None
        self.val_set = open_dataset(data, "val", tasks=known) if val_set is None else as_multitask(val_set)
        tasks = self.train_set.tasks
        with self.accelerator.main_process_first():
            given = (model, "a model given in Python") if model is not None else make_model(recipe, data, tasks)
        self.plain, self.started_from = given
        if list(self.plain.tasks) != list(tasks):
            raise ValueError(f"The model has the tasks {list(self.plain.tasks)}, but the data {list(tasks)}")
        self.config = self.plain.config
        learnt = learnt_from(data, self.train_set) if train_set is None else "own data"
        cfg = dataclasses.replace(self.plain.pretrained_cfg, trained_on=learnt)
        cfg = self.plain.pretrained_cfg = each_channel(cfg, self.config.in_chans)
        if train_set is None:
            set_transform(self.train_set, data, "train", cfg)
        if val_set is None:
            set_transform(self.val_set, data, "val", cfg)
        self.own_size = is_published(data)
        own = [part for part, _ in sources_of(data) if part.dataset == "folder"]
        if val_set is None and any(part.val_ids is None for part in own):
            _logger.warning("`data.val_ids` is not given: evaluation uses all samples, including those trained on")
        hub = [part for part, _ in sources_of(data) if part.dataset == "hub"]
        if val_set is None and any(part.val_split == part.train_split for part in hub):
            _logger.warning("`data.val_split` is `data.train_split`: evaluation uses samples that were trained on")
        parts = [s.dataset if isinstance(s, MultiTaskSubset) else None for s in (self.train_set, self.val_set)]
        if parts[0] is not None and parts[0] is parts[1]:
            _logger.warning(
                "`train_set` and `val_set` are parts of one data set and share its transform: if it augments, so are "
                "the images of evaluation. Split two data sets of the same files, one with eval_transform"
            )
        choose_parameters(self.plain, recipe.model)
        with torch.random.fork_rng():
            if isinstance(self.train_set, Mixture):
                self.train_set.check_sizes()
            state_sizes(self.plain, recipe.data, self.train_set, self.val_set)
        if recipe.model.grad_checkpointing:
            self.plain.set_grad_checkpointing()
        weights = recipe.loss_weights
        self.criterion = MultiTaskLoss(tasks, weights=weights, balancing=recipe.balancing, across_processes=True)
        self.val_criterion = MultiTaskLoss(tasks, weights=weights).to(self.accelerator.device)
        self.metrics = make_metrics(tasks, recipe.data.dataset, recipe.data.protocol)
        self._prepare()

    def _prepare(self) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        self.plain.to(accelerator.device)
        if recipe.model.sync_bn and accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            self.plain = convert_sync_batchnorm(self.plain)
        optimizer = make_optimizer(self.plain, self.criterion, recipe.optim)
        self.table = parameter_table(self.plain, optimizer)
        self.ema = None
        if recipe.ema is not None:
            self.ema = ModelEmaV3(self.plain, decay=recipe.ema, use_warmup=True)
        if recipe.model.compile:
            self.plain.compile()
        self.schedule = make_schedule(optimizer, recipe.optim, recipe.steps)
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        self.loss: Any = self.criterion.to(accelerator.device)
        if list(self.criterion.parameters()):
            self.loss = accelerator.prepare(self.criterion)
        self.sharded = accelerator.distributed_type == DistributedType.FSDP

    @property
    def evaluated(self) -> MultiTaskModel:
        """The model that is evaluated and saved: the average, where there is one."""
        return self.plain if self.ema is None else self.ema.module  # type: ignore[no-any-return]

    def evaluate(self, advance: Any = None) -> dict[str, float]:
        """Metrics and losses on the evaluation images; `advance` is called with the number of images of each batch."""
        if self.accelerator.num_processes > 1 and not self.sharded:
            # Without synchronised batch normalisation, processes have statistics of their own.
            for buffer in self.evaluated.buffers():
                buffer.copy_(broadcast(buffer))
        data = self.recipe.data
        return evaluate(
            self.evaluated,
            self.val_set,
            metrics=self.metrics,
            own_size=self.own_size,
            criterion=self.val_criterion,
            batch_size=data.eval_batch_size,
            workers=data.workers,
            accelerator=self.accelerator,
            forward=self.model if self.sharded else None,
            advance=advance,
        )

    def rehearse(self, step: int) -> list[str]:
        """Evaluate one image, with made-up labels where it has none: what an evaluation refuses shows before steps.

        Returns:
            The names of the metrics and losses that an evaluation has.

        Raises:
            ValueError: naming the sample, for labels or logits that do not fit.
        """
        batch = to_device(Batches(self.val_set, 0).__getitems__([(0, 0)]), self.accelerator.device)
        model = self.model if self.sharded else self.evaluated
        with evaluating(model), torch.no_grad(), self.accelerator.autocast():
            outputs = {name: maps.float() for name, maps in model(batch["image"]).items()}
        metrics = self.metrics.to(self.accelerator.device)
        metrics.reset()
        try:
            metrics.update(outputs, {name: _labelled(task, batch[name]) for name, task in metrics.tasks.items()})
            self.val_criterion(outputs, batch)
        except ValueError as error:
            raise ValueError(f"At step {step}, samples {self.ids(batch)} of the evaluation: {error}") from error
        names = [*metrics.compute(), "loss", *(f"loss/{name}" for name in self.criterion.tasks)]
        metrics.reset()
        return names

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The weights that are evaluated, and the state to resume from; complete in the main process. Called in all."""
        if self.sharded:
            trained: dict[str, Any] = dict(get_model_state_dict(self.model, options=_WHOLE))
            moments = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_WHOLE)
        else:
            trained, moments = self.plain.state_dict(), self.optimizer.state_dict()
        balancing = self.criterion.state_dict()
        if self.accelerator.num_processes > 1:
            balancing = self.accelerator.reduce(balancing, reduction="mean")
        state = {"model": trained, "optimizer": moments, "balancing": balancing}
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        evaluated = trained if self.ema is None else self.ema.module.state_dict()
        if self.recipe.model.backbone == "lora" and evaluated:
            evaluated = merged_state(evaluated, self.recipe.model)
        return {name: value.detach().cpu() for name, value in evaluated.items()}, state

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave.

        Raises:
            ValueError: if it is that of another model or optimiser.
        """
        try:
            if self.sharded:
                set_model_state_dict(self.model, state["model"], options=_WHOLE)
                set_optimizer_state_dict(self.model, self.optimizer.optimizer, state["optimizer"], options=_WHOLE)
            else:
                self.plain.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
            self.criterion.load_state_dict(state["balancing"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"The checkpoint is from another model or optimiser: {error}") from error

    def ids(self, batch: dict[str, Any]) -> list[str]:
        """Names of a batch's samples."""
        return [str(id) for id in batch.get("id", [])]

    def not_finite(self, step: int, ids: list[str], parts: torch.Tensor) -> NonFiniteLossError | None:
        """The error for losses (T,) of a step that are not finite."""
        if bool(parts.isfinite().all()):
            return None
        found = [name for name, value in zip(self.criterion.tasks, parts.tolist()) if not abs(value) < float("inf")]
        return NonFiniteLossError(step, found, ids)


def _labelled(task: Task, labels: torch.Tensor) -> torch.Tensor:
    """Labels (1, C, H, W), or the made-up ones of a task that has none in them."""
    if bool((labels != task.ignore_index).any()):
        return labels
    made_up = torch.ones_like(labels) / (labels.shape[1] ** 0.5 if labels.is_floating_point() else 1)
    # Two classes, one of which the metrics of foreground need.
    made_up[..., ::2, :] = 0 if is_class_map(task) or task.activation == "sigmoid" else made_up[..., ::2, :]
    return made_up


class NonFiniteLossError(ValueError):
    """A loss became infinite or NaN.

    Attributes:
        step: Steps that were done before.
        tasks: Tasks whose loss it was.
        ids: Samples of the batch, in the process that raised.
    """

    def __init__(self, step: int, tasks: list[str], ids: list[str]) -> None:
        super().__init__(
            f"The loss of {', '.join(tasks)} is not finite at step {step}, on the samples {ids}; checkpoints were "
            "written before that. Look at these samples' labels; or start another run from `last` (model.name) with a "
            "lower optim.lr, or optim.clip_grad"
        )
        self.step, self.tasks, self.ids = step, tasks, ids


class NonFiniteWeightsError(ValueError):
    """Weights, or what the optimiser keeps of gradients, became infinite or NaN. No checkpoint has them."""

    def __init__(self, step: int, names: list[str]) -> None:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        super().__init__(
            f"After step {step} not all weights are finite: {', '.join(names[:3])}{more}; no checkpoint was written, "
            "older ones stay. Start another run from `last` (model.name) with a lower optim.lr, or optim.clip_grad"
        )
        self.step, self.names = step, names
