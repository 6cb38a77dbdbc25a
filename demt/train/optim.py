"""Optimiser and schedule of a recipe: timm's, stepped by optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from demt.models import MultiTaskModel
from demt.train.recipe import OptimPart


def make_optimizer(model: MultiTaskModel, criterion: nn.Module, part: OptimPart) -> torch.optim.Optimizer:
    """The optimiser of a model's trained parameters and, without weight decay, of a learned balancing's.

    Raises:
        ValueError: for an unknown optimiser, or `lr_factors` of parts that the model does not have.
    """
    options: dict[str, Any] = {"layer_decay": part.layer_decay} if part.layer_decay is not None else {}
    if part.name in ("sgd", "momentum"):
        options["momentum"] = part.momentum
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=part.name,
            lr=part.lr,
            weight_decay=part.weight_decay,
            filter_bias_and_bn=not part.decay_all,
            **options,
        )
    except ValueError as error:
        raise ValueError(f"`optim.name` {part.name!r}: {error}") from error
    if part.lr_factors:
        _scale(optimizer, model, part.lr_factors)
    if learned := list(criterion.parameters()):
        optimizer.add_param_group({"params": learned, "lr": part.lr, "weight_decay": 0.0})
    return optimizer


def is_in(name: str, part: str) -> bool:
    """Whether a module or parameter is a part of a model, or in it: ``"head.heads.depth"`` is in ``"head.heads"``."""
    return f"{name}.".startswith(f"{part}.")


def check_parts(setting: str, parts: Iterable[str], model: nn.Module) -> None:
    """Raise `ValueError` for a part of a recipe's setting with which no parameter's name begins."""
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(is_in(name, part) for name in names):
            known = sorted({".".join(name.split(".")[:2]) for name in names if name.startswith("head.")})
            raise ValueError(
                f"Expected `{setting}` to name parts of the model, such as 'backbone' or one of {known}, got {part!r}"
            )


def _scale(optimizer: torch.optim.Optimizer, model: nn.Module, factors: Mapping[str, float]) -> None:
    """Give parameters whose names begin with a key of `factors` groups of their own, as timm's schedules scale them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    check_parts("optim.lr_factors", factors, model)
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        scaled: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            fit = [part for part in factors if is_in(names[id(parameter)], part)]
            scaled.setdefault(factors[max(fit, key=len)] if fit else 1.0, []).append(parameter)
        for factor, parameters in scaled.items():
            scale = group.get("lr_scale", 1.0) * factor
            optimizer.add_param_group({**group, "params": parameters, "lr_scale": scale})


def make_schedule(optimizer: torch.optim.Optimizer, part: OptimPart, steps: int) -> Scheduler:
    """The learning rate as a function of the number of steps done: ``schedule.step_update(done)`` sets it."""
    warmup = {"warmup_t": part.warmup, "warmup_lr_init": 0.0, "t_in_epochs": False}
    if part.schedule == "poly":
        return PolyLRScheduler(optimizer, t_initial=steps, power=part.power, lr_min=0.0, **warmup)
    # A constant rate is a cosine that ends where it starts.
    lowest = part.lr if part.schedule == "constant" else 0.0
    return CosineLRScheduler(optimizer, t_initial=steps, lr_min=lowest, **warmup)
