"""Names of models: the built-in ones of `demt.models.variants`, and users' functions. Separate from timm's registry."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from demt.models.variants import MODELS

if TYPE_CHECKING:
    from demt.config import ModelConfig, PretrainedCfg
    from demt.models import MultiTaskModel

Function = Callable[..., "MultiTaskModel"]
_Function = TypeVar("_Function", bound=Function)
_functions: dict[str, Function] = {}


def register_model(function: _Function) -> _Function:
    """Decorator, as in timm: make a function known to `create_model` under its own name.

    The function is called with `create_model`'s keyword arguments (`pretrained` always among them) and returns a
    `MultiTaskModel`.

    Raises:
        ValueError: if the name is taken by a built-in model.

    Example:
        >>> import demt
        >>> @demt.register_model
        ... def my_model(pretrained=False, **kwargs):
        ...     return demt.create_model("demt_nano", pretrained=pretrained, **{"width": 32, **kwargs})
        >>> demt.is_model("my_model")
        True
    """
    name = function.__name__
    if name in list_tags():
        raise ValueError(f"The name {name!r} belongs to a built-in model; rename the function")
    _functions[name] = function
    return function


def split_name(name: str) -> tuple[str, str]:
    """``"arch.tag"`` to (arch, tag)."""
    arch, _, tag = name.partition(".")
    return arch, tag


def full_name(name: str) -> str:
    """The name with its tag, the default one if it has none; unchanged if unknown."""
    return name if "." in name else next((known for known in MODELS if known.startswith(f"{name}.")), name)


def is_model(name: str) -> bool:
    """Whether `create_model` knows the name, with or without tag."""
    return full_name(name) in MODELS or name in _functions


def list_models(
    filter: str | Sequence[str] = "", pretrained: bool = False, exclude_filters: str | Sequence[str] = ""
) -> list[str]:
    """Names of models in alphabetical order; with tags if `pretrained`, and then only those with weights.

    Args:
        filter: Shell-style patterns, e.g. ``"degmix_*"``; a name that matches any of them is listed.
        pretrained: List ``arch.tag`` names that have weights.
        exclude_filters: Patterns of names to leave out.

    Example:
        >>> import demt
        >>> demt.list_models("*_nano")
        ['degmix_nano', 'demt_nano', 'demtg_nano', 'multitask_baseline_nano', 'refined_baseline_nano']
    """
    names = sorted([*list_tags(), *_functions])
    if pretrained:
        cfgs = {name: variant.pretrained_cfg for name, variant in MODELS.items()}
        names = sorted(name for name, cfg in cfgs.items() if cfg.file or cfg.hf_hub_id)
    included = _patterns(filter) or ["*"]
    excluded = _patterns(exclude_filters)
    return [n for n in names if _fits(n, included) and not _fits(n, excluded)]


def list_tags() -> dict[str, list[str]]:
    """Tags of every built-in model, the default one first, by the models' names in alphabetical order."""
    tags: dict[str, list[str]] = {}
    for arch, tag in map(split_name, MODELS):
        tags.setdefault(arch, []).append(tag)
    return dict(sorted(tags.items()))


def get_function(name: str) -> Function | None:
    """The function registered under a name, if there is one."""
    return _functions.get(name)


def get_config(name: str) -> tuple[ModelConfig, PretrainedCfg]:
    """Configuration and preprocessing of a built-in name, with or without tag.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or an unknown tag.
    """
    if (known := MODELS.get(full_name(name))) is not None:
        return known.config, known.pretrained_cfg
    (arch, tag), tags = split_name(name), list_tags()
    if arch in tags:
        raise ValueError(f"Unknown tag {tag!r} of model {arch!r}; its tags are {sorted(tags[arch])}")
    close = get_close_matches(arch, [*tags, *_functions], n=3, cutoff=0.5)
    hint = f"did you mean one of {close}? " if close else ""
    raise ValueError(f"Unknown model {name!r}; {hint}demt.list_models() lists all")


def _patterns(patterns: str | Sequence[str]) -> list[str]:
    return [p for p in ([patterns] if isinstance(patterns, str) else patterns) if p]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
