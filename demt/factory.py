"""From a name to a model: `resolve` finds out what a name stands for, `create_model` builds it and loads its weights.

A name is a built-in model's, a family's, a registered function's, a folder's or a Hub repository's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from huggingface_hub import try_to_load_from_cache

from demt.config import Family, ModelConfig, PretrainedCfg, check_keys
from demt.files.weights import read_weights
from demt.hub.folder import CONFIG, WEIGHTS, read_config, read_folder
from demt.hub.remote import HUB, LOCAL, download, model_folder
from demt.models.variants import FAMILIES, SIZES
from demt.registry import get_config, get_function, is_model
from demt.released.cache import fetched_folder, how_to_get
from demt.released.tables import published

if TYPE_CHECKING:
    from torch import Tensor

    from demt.models import MultiTaskModel

_FILES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".tar")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where weights of a model are.

    Args:
        place: A file, a folder, the authors of the papers, or the Hugging Face Hub.
        here: Whether they are on this machine.
        address: A file, a folder, a page or a repository.
    """

    place: Literal["file", "folder", "authors", "hub"]
    here: bool
    address: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a name stands for.

    Args:
        name: As it was given.
        config: What to build.
        pretrained_cfg: How images are prepared.
        weights: What `pretrained=True` loads; None if there are none.
        is_saved: Whether the name is that of a folder or repository, whose weights are always loaded.
    """

    name: str
    config: ModelConfig
    pretrained_cfg: PretrainedCfg
    weights: Weights | None
    is_saved: bool = False


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: PretrainedCfg | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    *,
    pretrained_backbone: bool | str | PathLike[str] = False,
    **kwargs: Any,
) -> MultiTaskModel:
    """Create a model.

    Args:
        model_name: A name of `list_models`, with or without tag (``"degmix_swin_tiny.nyud"``); a family
            (``"demt"``, ``"demtg"``, ``"degmix"``, ``"multitask_baseline"``, ``"refined_baseline"``) with `backbone`
            and `tasks`; a folder that `save_pretrained` wrote, ``"local-dir:PATH"`` or its path alone; or
            ``"hf-hub:org/name@revision"``, a repository of the Hugging Face Hub (``@revision`` may be left out). The
            weights of folders and repositories are always loaded.
        pretrained: Load the weights of that name: from the file or the Hub repository that its `pretrained_cfg` says.
        pretrained_cfg, pretrained_cfg_overlay: Replace, or change entries of, the preprocessing and weights' location.
        checkpoint_path: Weights for this model: a safetensors file, a state dict of `torch.save`, a checkpoint of
            PyTorch Lightning (see `demt.files.weights.read_weights`), or a folder that `save_pretrained` wrote.
        cache_dir: Where downloaded files are kept; by default huggingface_hub's cache.
        pretrained_backbone: Load timm's weights into the backbone (not where weights of the whole model are loaded); or
            the path of a file with weights for it, safetensors or ``.pth``: see `demt.backbones.load_backbone`.
        kwargs: Fields of `ModelConfig`, among them `tasks`, `backbone`, `in_chans`, `width`. With pretrained weights,
            changing tasks keeps every weight that does not depend on it, and one log line says what is new.

    Returns:
        The model, in training mode as timm's are (use `.eval()` to predict).

    Raises:
        ValueError: for an unknown name (with the nearest ones), unknown arguments, or weights that do not fit; if
            `pretrained_backbone` is a file and the whole model has weights.
        FileNotFoundError: if a folder, file, repository or revision does not exist.
        OSError: if the Hub does not answer or refuses, or the cache cannot be written; see `demt.hub.download`.

    Example:
        >>> import demt
        >>> model = demt.create_model("degmix_nano", tasks={"semseg": 5, "depth": 1})
        >>> list(model.tasks)
        ['semseg', 'depth']
    """
    from demt.backbones.weights import check_source
    from demt.models import MultiTaskModel

    check_source(pretrained_backbone)
    given: dict[str, Any] = {
        "pretrained_cfg": pretrained_cfg,
        "pretrained_cfg_overlay": pretrained_cfg_overlay,
        "checkpoint_path": checkpoint_path,
        "cache_dir": cache_dir,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(model_name, str) and (function := get_function(model_name)) is not None:
        if pretrained_backbone:
            given["pretrained_backbone"] = pretrained_backbone
        model = function(pretrained=pretrained, **given, **kwargs)
        if not isinstance(model, MultiTaskModel):
            raise ValueError(
                f"Expected the function registered as {model_name!r} to return a demt.MultiTaskModel, "
                f"got {type(model).__name__}"
            )
        return model
    found = resolve(model_name, backbone=kwargs.get("backbone"), tasks=kwargs.get("tasks"), **given)
    if not found.is_saved and "family" in kwargs:
        raise ValueError(f"The family is part of the name: drop `family` beside {model_name!r}")
    if kwargs.get("backbone", found.config.backbone) != found.config.backbone:
        # What the named variant says of its own backbone does not hold for another one.
        kwargs = {"backbone_kwargs": {}, "head_width": None, **kwargs}
    if not (pretrained or checkpoint_path is not None or found.is_saved):
        return MultiTaskModel(
            found.config.replace(**kwargs),
            # Random weights were trained on nothing.
            pretrained_cfg=dataclasses.replace(found.pretrained_cfg, trained_on=None),
            pretrained_backbone=pretrained_backbone,
            cache_dir=cache_dir if pretrained_backbone is True else None,
        )
    if not isinstance(pretrained_backbone, bool):
        raise ValueError(
            f"`pretrained_backbone` {str(pretrained_backbone)!r} cannot be loaded beside the weights of the whole "
            f"model {model_name!r}; drop one of the two (those of a folder or repository are always loaded)"
        )
    trained, state, source = _read(found, cache_dir)
    config = found.config
    if trained is not None and checkpoint_path is None:
        # What the authors' files hold may differ from what their names say.
        config = trained
    elif trained is None and pretrained:
        trained = config
    return MultiTaskModel.with_weights(
        config.replace(**kwargs), found.pretrained_cfg, state, source, trained=trained
    ).train()


def resolve(
    name: str,
    *,
    pretrained_cfg: PretrainedCfg | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    backbone: str | None = None,
    tasks: Any = None,
) -> Resolved:
    """What a name stands for, and where its weights are. Downloads only the config.json of ``"hf-hub:"`` names.

    Args:
        name: As for `create_model`, except registered functions.
        pretrained_cfg, pretrained_cfg_overlay, checkpoint_path, cache_dir: As for `create_model`.
        backbone, tasks: Complete a family's name.

    Raises:
        ValueError: for an unknown name (with the nearest ones), or arguments that do not go with it.
        FileNotFoundError: if a folder, repository or revision does not exist.
        OSError: if the Hub does not answer or refuses, or the cache cannot be written; see `demt.hub.download`.
    """
    if not isinstance(name, str):
        raise ValueError(f"Expected `model_name` to be a string, got {type(name).__name__}")
    is_saved = name.startswith((LOCAL, HUB)) or _is_path(name)
    weights: Weights | None = None
    if is_saved:
        given = {"pretrained_cfg": pretrained_cfg, "checkpoint_path": checkpoint_path}
        if taken := [argument for argument, value in given.items() if value is not None]:
            raise ValueError(f"{name!r} comes with its weights and preprocessing: {taken} cannot be given with it")
        config, cfg, weights = _saved(name, cache_dir)
    elif name in FAMILIES:
        config, cfg = _family(name, backbone, tasks), PretrainedCfg(input_size=SIZES["pascal"])
    elif ":" in name:
        raise ValueError(
            f"Unknown source in {name!r}; expected {LOCAL!r} and a folder's path, or {HUB!r} and a repository's id"
        )
    else:
        config, cfg = get_config(name)
    if isinstance(pretrained_cfg, Mapping):
        cfg = PretrainedCfg.from_dict(pretrained_cfg)
    elif pretrained_cfg is not None:
        cfg = pretrained_cfg
    if pretrained_cfg_overlay:
        check_keys(pretrained_cfg_overlay, PretrainedCfg, "pretrained_cfg_overlay")
        cfg = dataclasses.replace(cfg, **pretrained_cfg_overlay)
    if not is_saved:
        weights = _find(name, cfg, checkpoint_path, cache_dir)
    return Resolved(name=name, config=config, pretrained_cfg=cfg, weights=weights, is_saved=is_saved)


def weights_of(name: str, cache_dir: str | PathLike[str] | None = None) -> Weights | None:
    """The weights that ``create_model(name, pretrained=True)`` takes, be it after `demt fetch`; None if there are none.

    Nothing is known of a registered function's, and a family alone has none.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError, OSError: for a folder or a repository; see `resolve`.
    """
    return None if get_function(name) or name in FAMILIES else resolve(name, cache_dir=cache_dir).weights


def _is_path(name: str) -> bool:
    """Whether a name is an existing folder's path; names of models come first.

    Raises:
        FileNotFoundError, ValueError: if it looks like a path, and there is no folder.
    """
    if is_model(name) or name in FAMILIES:
        return False
    path = Path(name).expanduser()
    if path.is_file():
        raise ValueError(
            f"{name!r} is a file, expected a model's name: give it as checkpoint_path= beside one; checkpoints of the "
            "released code are read by demt.load_released"
        )
    looks_so = ":" not in name and (not {"/", "\\"}.isdisjoint(name) or name[:1] in (".", "~") or path.suffix in _FILES)
    if looks_so and not path.is_dir():
        raise FileNotFoundError(
            f"No folder at {name!r}; expected {LOCAL}PATH, a folder that save_pretrained wrote, "
            f"or {HUB}org/name, a repository of the Hugging Face Hub"
        )
    return path.is_dir()


def _saved(name: str, cache_dir: str | PathLike[str] | None) -> tuple[ModelConfig, PretrainedCfg, Weights]:
    """Configuration, preprocessing and place of weights of a folder, or of a repository: its config.json is fetched."""
    folder, repository = model_folder(
        name if name.startswith((LOCAL, HUB)) else Path(name), cache_dir=cache_dir, weights=False
    )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"No model folder at {str(folder)!r}; expected {LOCAL}PATH, a folder with {CONFIG} and {WEIGHTS}"
        )
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"No {CONFIG} in {str(folder)!r}; expected {LOCAL}PATH, a folder that save_pretrained wrote"
        )
    config, cfg = read_config(folder / CONFIG)
    if repository is None:
        return config, cfg, Weights("folder", True, str(folder))
    return (
        config,
        dataclasses.replace(cfg, hf_hub_id=repository, revision=folder.name),
        _on_hub(repository, folder.name, cache_dir),
    )


def _family(name: str, backbone: str | None, tasks: Any) -> ModelConfig:
    given = {"backbone": backbone, "tasks": tasks}
    if missing := [key for key, value in given.items() if value is None]:
        raise ValueError(
            f"The family {name!r} alone needs the arguments {missing}, e.g. "
            f"create_model({name!r}, backbone='convnextv2_tiny', tasks={{'semseg': 150, 'depth': 1}}); "
            f"or choose a published name such as '{name}_swin_tiny.nyud'"
        )
    return ModelConfig(family=cast(Family, name), backbone=str(backbone), tasks=tasks, **FAMILIES[name])


def _find(
    name: str,
    cfg: PretrainedCfg,
    checkpoint_path: str | PathLike[str] | None,
    cache_dir: str | PathLike[str] | None,
) -> Weights | None:
    """The weights of a name: what the caller gives, a file, what `demt fetch` made, the Hub's, the authors'."""
    if checkpoint_path is not None:
        return Weights("folder" if Path(checkpoint_path).is_dir() else "file", True, str(checkpoint_path))
    if cfg.file is not None:
        return Weights("file", True, cfg.file)
    if (folder := fetched_folder(name, cache_dir)) is not None:
        return Weights("authors", True, str(folder))
    if cfg.hf_hub_id is not None:
        return _on_hub(cfg.hf_hub_id, cfg.revision, cache_dir)
    row = published(name)
    return Weights("authors", False, row.page) if row is not None and row.page else None


def _on_hub(repository: str, revision: str | None, cache_dir: str | PathLike[str] | None) -> Weights:
    where = None if cache_dir is None else Path(cache_dir)
    cached = try_to_load_from_cache(repository, WEIGHTS, cache_dir=where, revision=revision)
    return Weights("hub", isinstance(cached, str), repository)


def _read(found: Resolved, cache_dir: str | PathLike[str] | None) -> tuple[ModelConfig | None, dict[str, Tensor], str]:
    """The weights of a name: the configuration beside them, if there is one, their values, and what to call them.

    Raises:
        ValueError: if there are none, with what to do; or if a file is damaged.
        FileNotFoundError, OSError: if they cannot be read or downloaded.
    """
    weights, cfg = found.weights, found.pretrained_cfg
    if weights is None or (weights.place == "authors" and not weights.here):
        if (command := how_to_get(found.name, cache_dir)) is not None:
            raise ValueError(f"No weights of {found.name!r} are on this machine. {command}")
        raise ValueError(
            f"No weights are published for {found.name!r} yet. Create it with pretrained=False, load a checkpoint of "
            "the released code with demt.load_released(path), or give checkpoint_path= of a file with weights"
        )
    if weights.place == "file":
        return None, read_weights(weights.address), weights.address
    if weights.place != "hub":
        config, _, state = read_folder(weights.address)
        return config, state, str(Path(weights.address) / WEIGHTS)
    folder = download(weights.address, revision=cfg.revision, sha256=cfg.sha256, cache_dir=cache_dir)
    config, _, state = read_folder(folder)
    return config, state, f"{weights.address}@{folder.name[:10]}/{WEIGHTS}"
