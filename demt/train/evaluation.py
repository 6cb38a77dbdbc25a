"""Evaluation of a model on a data set, in one process or several."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from demt.data import MultiTaskDataset
from demt.data.dataset import as_multitask
from demt.inference.forward import evaluating
from demt.inference.preprocess import shrink
from demt.losses import MultiTaskLoss
from demt.metrics import MultiTaskMetrics
from demt.models import MultiTaskModel
from demt.train.data import Batches, same, share_of, to_device
from demt.train.stopping import outlive_signals


def make_accelerator(device: torch.device | None = None, **options: Any) -> Accelerator:
    """Accelerate's view of the processes. Without an accelerator, those that a launcher started work together, too.

    Left alone, Accelerate takes each of torchrun's processes on a machine without GPU for the only one, and fp16 on a
    CPU for float32.

    Args:
        device: The CPU, or the accelerator that there is; by default whichever of the two is faster.
        options: Further arguments of Accelerate's.

    Raises:
        ValueError: for fp16 on a CPU, or a device that Accelerate does not choose.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1)) > 1
    on_cpu = device is not None and device.type == "cpu"
    # Accelerate keeps the precision of a process's first accelerator for all that follow, and has no public way to
    # give another one its own: this leaves the earlier ones theirs. Where the name is missing, Accelerate refuses.
    if hasattr(AcceleratorState, "_shared_state"):
        AcceleratorState._shared_state = type(AcceleratorState._shared_state)()
    accelerator = Accelerator(cpu=on_cpu or (launched and not torch.accelerator.is_available()), **options)
    chosen = accelerator.device
    if device is not None and (device.type, device.index or 0) != (chosen.type, chosen.index or 0):
        raise ValueError(
            f"Expected `device` to be cpu or {chosen}, got {str(device)!r}; choose one of several GPUs by the "
            "environment variable CUDA_VISIBLE_DEVICES"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("Expected `precision` to be no or bf16 on a CPU, got fp16, which needs a GPU")
    return accelerator


@torch.no_grad()
def evaluate(
    model: MultiTaskModel,
    dataset: MultiTaskDataset,
    *,
    metrics: MultiTaskMetrics,
    own_size: bool = False,
    max_size: int | None = None,
    criterion: MultiTaskLoss | None = None,
    batch_size: int = 1,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    forward: Any = None,
    advance: Any = None,
) -> dict[str, float]:
    """Metrics over a data set, counting every sample once, however many processes share the work.

    Args:
        model: Evaluated in eval mode; its mode is restored.
        dataset: With a transform that normalises images, e.g. `demt.data.transforms.eval_transform`.
        metrics: Reset first, and filled.
        own_size: Run the images as large as the data set gives them, as published protocols do. By default they are
            shrunk to `max_size`, as `demt.predict` does, and labels keep their size.
        max_size: Longest side in pixels; by default ``model.pretrained_cfg.max_size``.
        criterion: With fixed weights; adds its losses as ``"loss"`` and ``"loss/TASK"``, means over labelled pixels.
        batch_size: Images of a batch in each process; those of the same size run together.
        workers: Processes that load data.
        accelerator: Device, precision and processes; one of its own by default.
        forward: What is called on a batch's images, by default the model.
        advance: Called with the number of images after each batch.

    Returns:
        Values by ``"task/metric"``.

    Raises:
        ValueError: if labels or logits do not fit or are not finite, or no task has a label in the data set. A task
            without labels is left out of the results.
    """
    dataset = as_multitask(dataset)
    accelerator = accelerator or make_accelerator()
    device = accelerator.device
    max_size = None if own_size else max_size or model.pretrained_cfg.max_size
    model.to(device)
    metrics.to(device).reset()
    # With sharded weights processes have to call the model equally often.
    size = batch_size if forward is None else 1
    loader = torch.utils.data.DataLoader(
        Batches(dataset, None),
        batch_sampler=list(share_of(len(dataset), accelerator.process_index, accelerator.num_processes, size)),
        collate_fn=same,
        num_workers=workers,
        worker_init_fn=outlive_signals,
    )
    losses = torch.zeros(2, len(metrics.tasks), dtype=torch.float64, device=device)
    with evaluating(model):
        for batch, counted in itertools.chain.from_iterable(loader):
            batch = to_device({**batch, "image": shrink(batch["image"], max_size)}, device)
            with accelerator.autocast():
                outputs: dict[str, Tensor] = (forward or model)(batch["image"])
            if not any(counted):
                continue
            rows = torch.tensor(counted, device=device)
            outputs = {name: maps[rows].float() for name, maps in outputs.items()}
            labels = {name: batch[name][rows] for name in metrics.tasks if name in batch}
            try:
                metrics.update(outputs, labels)
                result = None if criterion is None else criterion(outputs, labels)
            except ValueError as error:
                raise ValueError(f"Samples {batch.get('id', '?')}: {error}") from error
            if result is not None:
                pixels = torch.stack(list(result.labelled.values())).double()
                losses += torch.stack([pixels * torch.stack(list(result.parts.values())).double(), pixels])
            if advance is not None:
                advance(sum(counted))
    results = metrics.compute()
    if criterion is not None:
        sums, pixels = accelerator.reduce(losses)
        parts = sums / pixels.clamp_min(1)
        total, _ = criterion.balancer(parts.float(), pixels > 0)
        results["loss"] = float(total)
        labelled = zip(criterion.tasks, parts.tolist(), pixels.tolist())
        results |= {f"loss/{name}": value for name, value, count in labelled if count}
    return results
