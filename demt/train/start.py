"""The model that a run starts from."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import demt
from demt.data import MultiTaskDataset
from demt.factory import resolve, weights_of
from demt.hub import HUB, LOCAL
from demt.models import MultiTaskModel
from demt.models.variants import FAMILIES
from demt.registry import get_function
from demt.tasks import Task
from demt.train.data import is_published, seed_all
from demt.train.recipe import DataPart, ModelPart, Recipe

_logger = logging.getLogger("demt")


def make_model(recipe: Recipe, data: DataPart, tasks: dict[str, Task]) -> tuple[MultiTaskModel, str]:
    """The model of a recipe, with the tasks of the data, and what it starts from, in words."""
    part = recipe.model
    options: dict[str, Any] = {"tasks": tasks, **part.args}
    pretrained = part.pretrained
    if pretrained is None:
        # A file named for the backbone is the wanted start.
        pretrained = isinstance(part.pretrained_backbone, bool) and _has_weights(part.name)
    options |= {"pretrained": pretrained, "pretrained_backbone": part.pretrained_backbone}
    seed_all(recipe.seed)
    model = demt.create_model(part.name, **options)
    if part.init is not None:
        _take_weights(model, part.init)
    return model, _start(part, pretrained, model.config.backbone)


def _start(part: ModelPart, pretrained: bool, backbone: str) -> str:
    """What a model starts from, for its card."""
    # A function knows by itself what it starts from; folders and repositories are loaded in any case.
    by_name = get_function(part.name) is not None or part.name.startswith((LOCAL, HUB))
    by_name = by_name or (part.name not in FAMILIES and resolve(part.name).is_saved)
    if pretrained or by_name:
        start = part.name
    elif isinstance(part.pretrained_backbone, bool):
        start = f"timm's {backbone}, all else random" if part.pretrained_backbone else "random numbers"
    else:
        start = f"{Path(part.pretrained_backbone).name} in the backbone, all else random"
    return start if part.init is None else f"{part.init} where shapes fit, else {start}"


def state_sizes(model: MultiTaskModel, data: DataPart, train_set: MultiTaskDataset, val_set: MultiTaskDataset) -> None:
    """Write into a model's preprocessing the size of the samples that train it, and the scale it is evaluated at.

    Published protocols evaluate images as large as they are; there the scale is that of the evaluation samples.
    """
    size = tuple(train_set[0]["image"].shape)
    scale = val_set[0]["image"].shape[-2:] if is_published(data) else size[1:]
    model.pretrained_cfg = dataclasses.replace(
        model.pretrained_cfg, input_size=size, max_size=data.max_size or max(scale)
    )


def _has_weights(name: str) -> bool:
    """Whether a name has weights on this machine or the Hub; says so where not."""
    weights = weights_of(name)
    if weights is not None and (weights.here or weights.place == "hub"):
        return True
    if get_function(name) is not None or name in FAMILIES:
        return False
    fetch = f"; `demt fetch {name}` gets the authors'" if weights is not None else ""
    _logger.warning("`model.name` %s has no weights here: decoder and heads start untrained%s", name, fetch)
    return False


def _take_weights(model: MultiTaskModel, source: str) -> None:
    """Copy the weights of another model that have the same names and shapes."""
    given, state = demt.create_model(source, pretrained=True).state_dict(), model.state_dict()
    common = {name: value for name, value in given.items() if name in state and value.shape == state[name].shape}
    if not common:
        raise ValueError(f"`model.init` {source!r} has no weights in common with the model")
    model.load_state_dict({**state, **common})
    missing = [name for name in model.head.encoders if f"head.encoders.{name}.laterals.0.weight" not in common]
    model.head.copy_stages(model.backbone, missing)
    _logger.warning(
        "`model.init` %s: %d of its %d weights fit the model's %d", source, len(common), len(given), len(state)
    )
