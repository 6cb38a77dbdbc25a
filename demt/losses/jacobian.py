"""Gradient-based balancing (PCGrad, CAGrad, UPGrad, ...) through TorchJD, an optional dependency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from demt.losses.multitask import LossOutput


def jacobian_backward(
    result: LossOutput,
    *,
    features: Sequence[Tensor],
    shared_parameters: Iterable[Tensor],
    aggregator: Any,
    parallel_chunk_size: int | None = 1,
) -> None:
    """Backward pass in place of ``result.total.backward()``: the tasks' gradients meet in `aggregator`.

    Each weighted task loss goes back through its own head as usual. At the shared parameters the tasks' gradients are
    kept apart and combined by the aggregator, e.g. ``torchjd.aggregation.UPGrad()``, ``PCGrad()`` or ``CAGrad(c=0.5)``.
    Tasks without labels in this batch take no part: a row of zeros would stop some aggregators from learning at all.
    Waits for the device once. Not for several processes: TorchJD goes around DistributedDataParallel's averaging.

    Args:
        result: What `MultiTaskLoss` returned, with ``balancing="fixed"`` (its weights scale the gradients).
        features: The shared feature maps from which every head starts, e.g. the backbone's levels.
        shared_parameters: Parameters before `features`; those with ``requires_grad`` get the combined ``.grad``.
        aggregator: A `torchjd.aggregation.Aggregator`.
        parallel_chunk_size: How many tasks to differentiate at once; None for all (faster, more memory, needs
            operators that `torch.vmap` knows).

    Raises:
        ImportError: if TorchJD is not installed (``pip install "demt[balancing]"``).
        ValueError: if no task has labels.
    """
    try:
        from torchjd.autojac import jac_to_grad, mtl_backward
    except ImportError as error:
        raise ImportError('Gradient-based balancing needs TorchJD: pip install "demt[balancing]"') from error
    counts = torch.stack(list(result.labelled.values())).tolist()
    present = [name for name, count in zip(result.labelled, counts) if count > 0]
    if not present:
        raise ValueError("No task has a labelled pixel in this batch: there is nothing to learn from; skip the step")
    shared = [parameter for parameter in shared_parameters if parameter.requires_grad]
    mtl_backward(
        [result.weights[name] * result.parts[name] for name in present],
        features=features,
        shared_params=shared,
        parallel_chunk_size=parallel_chunk_size,
    )
    jac_to_grad(shared, aggregator)
