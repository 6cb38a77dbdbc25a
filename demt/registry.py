"""Names of models. Own registry, apart from timm's."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

from torch import nn

from demt.config import ModelConfig, PretrainedCfg
from demt.tasks import Task


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a name stands for: a configuration and, per tag, tasks and preprocessing. The first tag is the default."""

    config: ModelConfig
    tags: Mapping[str, PretrainedCfg]
    tasks: Mapping[str, Mapping[str, Task]]


_entries: dict[str, Entry] = {}
_functions: dict[str, Callable[..., nn.Module]] = {}
_Function = TypeVar("_Function", bound=Callable[..., nn.Module])


def _known() -> dict[str, Entry]:
    """All entries; the built-in ones are registered by the table of variants, which is read when first asked for."""
    importlib.import_module("demt.models.variants")
    return _entries


def register_config(
    name: str, config: ModelConfig, tags: Mapping[str, PretrainedCfg], tasks: Mapping[str, Mapping[str, Task]]
) -> None:
    """Register a configuration under a name, with tags (``name.tag``) that set tasks and preprocessing.

    Raises:
        ValueError: if a tag names a Hub repository without its full commit hash and the weights' sha256.
    """
    for tag, cfg in tags.items():
        if cfg.hf_hub_id and not (cfg.sha256 and re.fullmatch("[0-9a-f]{40}", cfg.revision or "")):
            raise ValueError(
                f"{name}.{tag} has hf_hub_id={cfg.hf_hub_id!r}: expected its `revision` as a full commit hash and the "
                f"`sha256` of its weights, got {cfg.revision!r} and {cfg.sha256!r}"
            )
    _entries[name] = Entry(config, dict(tags), dict(tasks))


def register_model(function: _Function) -> _Function:
    """Decorator, as in timm: make a function known to `create_model` under its own name.

    The function is called with `create_model`'s keyword arguments (`pretrained` always among them) and returns a model.

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
    if name in _known():
        raise ValueError(f"The name {name!r} belongs to a built-in model; rename the function")
    _functions[name] = function
    return function


def split_name(name: str) -> tuple[str, str]:
    """``"arch.tag"`` to (arch, tag)."""
    arch, _, tag = name.partition(".")
    return arch, tag


def full_name(name: str) -> str:
    """The name with its tag, the default one if it has none; unchanged if unknown."""
    arch, tag = split_name(name)
    entry = _known().get(arch)
    return name if tag or entry is None else f"{arch}.{next(iter(entry.tags))}"


def is_model(name: str) -> bool:
    """Whether `create_model` knows the name, with or without tag."""
    arch, tag = split_name(name)
    if arch in _functions:
        return not tag
    entry = _known().get(arch)
    return entry is not None and (not tag or tag in entry.tags)


def list_models(
    filter: str | Sequence[str] = "", pretrained: bool = False, exclude_filters: str | Sequence[str] = ""
) -> list[str]:
    """Names of models in alphabetical order; with tags if `pretrained`, and then only those with weights.

    Args:
        filter: Shell-style patterns, e.g. ``"degmix_*"``; a name that fits any of them is listed.
        pretrained: List ``arch.tag`` names that have weights.
        exclude_filters: Patterns of names to leave out.

    Example:
        >>> import demt
        >>> demt.list_models("*_nano")
        ['degmix_nano', 'demt_nano', 'demtg_nano', 'multitask_baseline_nano']
    """
    names = sorted([*_known(), *_functions])
    if pretrained:
        tagged = ((f"{arch}.{tag}", cfg) for arch, entry in _known().items() for tag, cfg in entry.tags.items())
        names = sorted(name for name, cfg in tagged if cfg.file or cfg.hf_hub_id)
    included = _patterns(filter) or ["*"]
    excluded = _patterns(exclude_filters)
    return [n for n in names if _fits(n, included) and not _fits(n, excluded)]


def list_tags() -> dict[str, list[str]]:
    """Tags of every built-in model, the default one first, by the models' names in alphabetical order."""
    return {name: list(entry.tags) for name, entry in sorted(_known().items())}


def get_function(name: str) -> Callable[..., nn.Module] | None:
    """The function registered under a name, if there is one."""
    return _functions.get(name)


def get_config(name: str) -> tuple[ModelConfig, PretrainedCfg]:
    """Configuration and preprocessing of a name; raises `ValueError` with the nearest names for a typo."""
    arch, tag = split_name(name)
    entries = _known()
    if arch not in entries:
        close = get_close_matches(arch, [*entries, *_functions], n=3, cutoff=0.5)
        hint = f"did you mean one of {close}? " if close else ""
        raise ValueError(f"Unknown model {name!r}; {hint}demt.list_models() lists all")
    entry = entries[arch]
    if tag and tag not in entry.tags:
        raise ValueError(f"Unknown tag {tag!r} of model {arch!r}; its tags are {sorted(entry.tags)}")
    tag = tag or next(iter(entry.tags))
    return entry.config.replace(tasks=entry.tasks[tag]), entry.tags[tag]


def _patterns(patterns: str | Sequence[str]) -> list[str]:
    return [p for p in ([patterns] if isinstance(patterns, str) else patterns) if p]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
