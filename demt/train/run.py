"""Everything a training run needs, put together from its recipe, on whatever processes Accelerate finds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedType, broadcast
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3

from demt.data import MultiTaskDataset
from demt.data.published import READERS
from demt.losses import MultiTaskLoss
from demt.metrics import MultiTaskMetrics
from demt.models import MultiTaskModel
from demt.protocols import PROTOCOLS
from demt.tasks import Task
from demt.train.checkpoints import STATE, save_weights
from demt.train.data import open_dataset
from demt.train.evaluation import evaluate, make_accelerator
from demt.train.optim import make_optimizer, make_schedule
from demt.train.parts import choose_parameters, merged_state, parameter_table
from demt.train.recipe import Recipe
from demt.train.start import make_model, state_sizes

_logger = logging.getLogger("demt")


def accelerator_for(recipe: Recipe) -> Accelerator:
    """Accelerate's view of the processes; each gets its part of the batches that `train_loader` makes.

    Raises:
        ValueError: if the batch does not divide among the processes, or the device lacks the precision.
    """
    accelerator = make_accelerator(
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.accumulate,
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
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
        train_set, val_set, model: In place of the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        train_set: MultiTaskDataset | None = None,
        val_set: MultiTaskDataset | None = None,
        model: MultiTaskModel | None = None,
    ) -> None:
        self.recipe = recipe
        self.accelerator = accelerator_for(recipe)
        tasks = (train_set or open_dataset(recipe.data, "train")).tasks
        with self.accelerator.main_process_first():
            self.plain = make_model(recipe, recipe.data, tasks) if model is None else model
        if list(self.plain.tasks) != list(tasks):
            raise ValueError(f"The model has the tasks {list(self.plain.tasks)}, but the data {list(tasks)}")
        self.config, cfg = self.plain.config, self.plain.pretrained_cfg
        self.own_size = recipe.data.dataset in READERS
        self.train_set = train_set or open_dataset(recipe.data, "train", cfg)
        self.val_set = val_set or open_dataset(recipe.data, "val", cfg)
        if val_set is None and recipe.data.dataset == "folder" and recipe.data.val_ids is None:
            _logger.warning("`data.val_ids` is not given: evaluation is on all samples, those trained on among them")
        choose_parameters(self.plain, recipe.model)
        with torch.random.fork_rng():
            state_sizes(self.plain, recipe.data, self.train_set, self.val_set)
        if recipe.model.grad_checkpointing:
            self.plain.set_grad_checkpointing()
        weights = recipe.loss_weights
        self.criterion = MultiTaskLoss(tasks, weights=weights, balancing=recipe.balancing, across_processes=True)
        self.val_criterion = MultiTaskLoss(tasks, weights=weights, validate=False).to(self.accelerator.device)
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
            accelerator.register_for_checkpointing(self.ema)
        if recipe.model.compile:
            self.plain.compile()
        self.schedule = make_schedule(optimizer, recipe.optim, recipe.steps)
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        self.loss: Any = self.criterion.to(accelerator.device)
        if list(self.criterion.parameters()):
            self.loss = accelerator.prepare(self.criterion)
        else:
            accelerator.register_for_checkpointing(self.criterion)
        self.sharded = accelerator.distributed_type == DistributedType.FSDP

    @property
    def evaluated(self) -> MultiTaskModel:
        """The model that is evaluated and saved: the average, where there is one."""
        return self.plain if self.ema is None else self.ema.module  # type: ignore[no-any-return]

    def evaluate(self) -> dict[str, float]:
        """Metrics and losses on the evaluation images."""
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
        )

    def fill(self, folder: Path) -> None:
        """Write a checkpoint's files: the evaluated weights, and the state to go on from. Called in every process."""
        state = self.accelerator.get_state_dict(self.model) if self.ema is None else self.ema.module.state_dict()
        if self.accelerator.is_main_process:
            if self.recipe.model.backbone == "lora":
                state = merged_state(state, self.recipe.model)
            cpu = {name: value.detach().cpu() for name, value in state.items()}
            save_weights(folder, self.config, self.plain.pretrained_cfg, cpu)
        self.accelerator.save_state(str(folder / STATE))

    def load(self, checkpoint: Path) -> None:
        """Take up the state of a checkpoint."""
        self.accelerator.load_state(str(checkpoint / STATE))

    def ids(self, batch: dict[str, Any]) -> list[str]:
        """Names of a batch's samples."""
        return [str(id) for id in batch.get("id", [])]

    def finite_or_stop(self, step: int, ids: list[str], parts: torch.Tensor) -> None:
        """Raise `NonFiniteLossError` for losses (T,) of a step that are not finite."""
        if bool(parts.isfinite().all()):
            return
        found = [name for name, value in zip(self.criterion.tasks, parts.tolist()) if not abs(value) < float("inf")]
        raise NonFiniteLossError(step, found, ids)


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
            "written before that. Look at these samples' labels, lower optim.lr, or set optim.clip_grad"
        )
        self.step, self.tasks, self.ids = step, tasks, ids
