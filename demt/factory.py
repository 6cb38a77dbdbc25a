"""`create_model`: from a name to a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import nn

from demt.config import Family, ModelConfig, PretrainedCfg, check_keys
from demt.hub.folder import read_folder, read_safetensors
from demt.hub.load import load_weights
from demt.hub.remote import HUB, LOCAL, download
from demt.models import MultiTaskModel
from demt.models.variants import FAMILIES, SIZES
from demt.registry import get_config, get_function
from demt.released.cache import fetched_folder, how_to_get


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: PretrainedCfg | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    *,
    pretrained_backbone: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Create a model.

    Args:
        model_name: A name of `list_models`, with or without tag (``"degmix_swin_tiny.nyud"``); a family
            (``"demt"``, ``"demtg"``, ``"degmix"``, ``"multitask_baseline"``) together with `backbone` and `tasks`; or
            ``"local-dir:PATH"``, a folder that `save_pretrained` wrote, or ``"hf-hub:org/name@revision"``, a repository
            of the Hugging Face Hub (``@revision`` may be left out): the weights of these two are loaded in any case.
        pretrained: Load the weights of that name: from the file or the Hub repository that its `pretrained_cfg` says.
        pretrained_cfg, pretrained_cfg_overlay: Replace, or change entries of, the preprocessing and weights' location.
        checkpoint_path: Weights for this model: a safetensors file, or a folder that `save_pretrained` wrote.
        cache_dir: Where downloaded files are kept; by default huggingface_hub's cache.
        pretrained_backbone: Load timm's weights into the backbone; not when the whole model is pretrained.
        kwargs: Fields of `ModelConfig`, among them `tasks`, `backbone`, `in_chans`, `width`. With pretrained weights,
            changing tasks keeps every weight that does not depend on it, and one log line says what is new.

    Returns:
        The model, in training mode as timm's are (use `.eval()` to predict).

    Raises:
        ValueError: for an unknown name (with the nearest ones), unknown arguments, or weights that do not fit.
        FileNotFoundError: if a folder, file, repository or revision does not exist.
        OSError: if the Hub does not answer or refuses, or the cache cannot be written; see `demt.hub.download`.

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
        "cache_dir": cache_dir,
        "pretrained_backbone": pretrained_backbone or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if model_name.startswith((LOCAL, HUB)):
        if taken := sorted(set(given) & {"pretrained_cfg", "checkpoint_path", "pretrained_backbone"}):
            raise ValueError(f"{model_name!r} brings its weights and preprocessing: {taken} cannot go with it")
        model = MultiTaskModel.from_pretrained(model_name, cache_dir=cache_dir, **kwargs)
        model.pretrained_cfg = _preprocessing(model.pretrained_cfg, None, pretrained_cfg_overlay)
        return model.train()
    if (function := get_function(model_name)) is not None:
        return function(pretrained=pretrained, **given, **kwargs)
    if "family" in kwargs:
        raise ValueError(f"The family is part of the name: drop `family` beside {model_name!r}")
    config, cfg = _configuration(model_name, kwargs)
    if kwargs.get("backbone", config.backbone) != config.backbone:
        # What the named variant says of its own backbone does not hold for another one.
        kwargs = {"backbone_kwargs": {}, "head_width": None, **kwargs}
    cfg = _preprocessing(cfg, pretrained_cfg, pretrained_cfg_overlay)
    if pretrained and checkpoint_path is None and cfg.file is None:
        model = MultiTaskModel.from_pretrained(_pretrained_folder(model_name, cfg, cache_dir), **kwargs)
        model.pretrained_cfg = cfg
        return model.train()
    file = checkpoint_path or (cfg.file if pretrained else None)
    model = MultiTaskModel(
        config.replace(**kwargs),
        pretrained_cfg=cfg,
        pretrained_backbone=pretrained_backbone and file is None,
        cache_dir=cache_dir if pretrained_backbone and file is None else None,
    )
    if file is not None:
        trained = config if pretrained else None
        if Path(file).is_dir():
            trained, _, state = read_folder(file)
        else:
            state = read_safetensors(file)
        outline = MultiTaskModel.outline(trained, str(file)) if trained else None
        load_weights(model, state, trained.tasks if trained else None, str(file), trained=outline)
    return model


def _pretrained_folder(name: str, cfg: PretrainedCfg, cache_dir: str | PathLike[str] | None) -> Path:
    """The folder that holds the weights of a name: what `demt fetch` made, or else the Hub's."""
    if (folder := fetched_folder(name, cache_dir)) is not None:
        return folder
    if cfg.hf_hub_id is not None:
        return download(cfg.hf_hub_id, revision=cfg.revision, sha256=cfg.sha256, cache_dir=cache_dir)
    if (command := how_to_get(name, cache_dir)) is not None:
        raise ValueError(f"No weights of {name!r} are on this machine. {command}")
    raise ValueError(
        f"No weights are published for {name!r} yet. Create it with pretrained=False, load a checkpoint of "
        "the released code with demt.load_released(path), or give checkpoint_path= of a safetensors file"
    )


def _configuration(name: str, kwargs: dict[str, Any]) -> tuple[ModelConfig, PretrainedCfg]:
    """The named configuration, or for a family alone the one that `backbone` and `tasks` complete."""
    if ":" in name:
        raise ValueError(
            f"Unknown source in {name!r}; expected {LOCAL!r} and a folder's path, or {HUB!r} and a repository's id"
        )
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
