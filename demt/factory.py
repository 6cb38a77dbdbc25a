"""`create_model`: from a name to a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import nn

from demt.config import Family, ModelConfig, PretrainedCfg, check_keys
from demt.fetched import fetched_folder, how_to_get
from demt.hub import CONFIG, WEIGHTS, read_config, read_safetensors
from demt.models import MultiTaskModel
from demt.models.variants import FAMILIES, SIZES
from demt.registry import get_config, get_function
from demt.weights import load_weights

_LOCAL = "local-dir:"


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: PretrainedCfg | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    *,
    pretrained_backbone: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Create a model.

    Args:
        model_name: A name of `list_models`, with or without tag (``"degmix_swin_tiny.nyud"``); a family
            (``"demt"``, ``"demtg"``, ``"degmix"``, ``"multitask_baseline"``) together with `backbone` and `tasks`; or
            ``"local-dir:PATH"``, a folder that `save_pretrained` wrote, whose weights are loaded.
        pretrained: Load the weights of that name.
        pretrained_cfg, pretrained_cfg_overlay: Replace, or change entries of, the preprocessing and weights' location.
        checkpoint_path: A safetensors file with weights for this model.
        pretrained_backbone: Load timm's weights into the backbone; not when the whole model is pretrained.
        kwargs: Fields of `ModelConfig`, among them `tasks`, `backbone`, `in_chans`, `width`. With pretrained weights,
            changing tasks keeps every weight that does not depend on it, and one log line says what is new.

    Returns:
        The model, in training mode as timm's are (use `.eval()` to predict).

    Raises:
        ValueError: for an unknown name (with the nearest ones), unknown arguments, or weights that do not fit.
        FileNotFoundError: if a folder or file does not exist.

    Example:
        >>> import demt
        >>> model = demt.create_model("degmix_nano", tasks={"semseg": 5, "depth": 1})
        >>> list(model.tasks)
        ['semseg', 'depth']
    """
    if not isinstance(model_name, str):
        raise ValueError(f"Expected `model_name` to be a string, got {type(model_name).__name__}")
    given = {
        "pretrained_cfg": pretrained_cfg,
        "pretrained_cfg_overlay": pretrained_cfg_overlay,
        "checkpoint_path": checkpoint_path,
        "pretrained_backbone": pretrained_backbone or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if model_name.startswith(_LOCAL):
        if given:
            raise ValueError(
                f"A folder brings its weights and preprocessing: {sorted(given)} cannot go with {_LOCAL!r}"
            )
        return MultiTaskModel.from_pretrained(Path(model_name[len(_LOCAL) :]).expanduser(), **kwargs).train()
    if (function := get_function(model_name)) is not None:
        return function(pretrained=pretrained, **given, **kwargs)
    if "family" in kwargs:
        raise ValueError(f"The family is part of the name: drop `family` beside {model_name!r}")
    config, cfg = _configuration(model_name, kwargs)
    if kwargs.get("backbone", config.backbone) != config.backbone:
        # What the named variant says of its own backbone does not hold for another one.
        kwargs = {"backbone_kwargs": {}, "head_width": None, **kwargs}
    cfg = _preprocessing(cfg, pretrained_cfg, pretrained_cfg_overlay)
    file = checkpoint_path or (cfg.file if pretrained else None)
    made_for = config.tasks if pretrained else None
    if pretrained and file is None:
        folder = fetched_folder(model_name)
        if folder is None:
            raise ValueError(_no_weights(model_name))
        # What the authors' file holds is what its own folder says.
        config, _ = read_config(folder / CONFIG)
        file, made_for = folder / WEIGHTS, config.tasks
    model = MultiTaskModel(
        config.replace(**kwargs), pretrained_cfg=cfg, pretrained_backbone=pretrained_backbone and file is None
    )
    if file is not None:
        load_weights(model, read_safetensors(file), made_for, str(file))
    return model


def _no_weights(name: str) -> str:
    ways = how_to_get(name) or (
        "Create it with pretrained=False, load a checkpoint of the released code with demt.load_released(path), or "
        "give checkpoint_path= of a safetensors file"
    )
    return f"There are no weights for {name!r} here. {ways}"


def _configuration(name: str, kwargs: dict[str, Any]) -> tuple[ModelConfig, PretrainedCfg]:
    """The named configuration, or for a family alone the one that `backbone` and `tasks` complete."""
    if ":" in name:
        raise ValueError(f"Unknown source in {name!r}; a folder is given as {_LOCAL!r} and its path")
    if name not in FAMILIES:
        return get_config(name)
    if missing := [key for key in ("backbone", "tasks") if key not in kwargs]:
        raise ValueError(
            f"The family {name!r} alone needs the arguments {missing}, e.g. "
            f"create_model({name!r}, backbone='convnextv2_tiny', tasks={{'semseg': 150, 'depth': 1}}); "
            f"or choose a published name such as '{name}_swin_tiny.nyud'"
        )
    config = ModelConfig(
        family=cast(Family, name), backbone=kwargs["backbone"], tasks=kwargs["tasks"], **FAMILIES[name]
    )
    return config, PretrainedCfg(input_size=SIZES["pascal"])


def _preprocessing(
    cfg: PretrainedCfg, replacement: PretrainedCfg | Mapping[str, Any] | None, overlay: Mapping[str, Any] | None
) -> PretrainedCfg:
    if isinstance(replacement, Mapping):
        cfg = PretrainedCfg.from_dict(replacement)
    elif replacement is not None:
        cfg = replacement
    if overlay:
        check_keys(overlay, PretrainedCfg, "pretrained_cfg_overlay")
        cfg = dataclasses.replace(cfg, **overlay)
    return cfg
