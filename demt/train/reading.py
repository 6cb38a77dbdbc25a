"""Recipes from YAML files and the command line, with every value checked against the field's type."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from demt.data.declare import parse_pairs
from demt.tasks import RELEASED
from demt.train.ranges import Range
from demt.train.recipe import DataPart, Recipe

_FOLDER = Path(__file__).parent / "recipes"
#: What sources of a mixture take from `data` where they do not say otherwise.
_SHARED = ("size", "max_size", "augment", "variation", "zoom", "in_memory", "on_error", "workers", "eval_batch_size")
# A recipe has some 2,000 bytes and 100 values.
_MAX_BYTES, _MAX_VALUES = 2**20, 100_000


def list_recipes() -> list[str]:
    """Names of the recipes that come with demt."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_recipe(source: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe, with changes.

    Args:
        source: A name of `list_recipes`, or a YAML file. What it leaves out has the default of `Recipe`.
        overrides: Changes as on the command line, ``"optim.lr=1e-4"``; values are YAML.

    Raises:
        FileNotFoundError: if there is no such recipe or file.
        ValueError: for an unknown field (with the nearest one) or a value of another type.

    Example:
        >>> recipe = load_recipe("nyud", ["steps=100", "model.name=demt_swin_small.nyud"])
        >>> recipe.steps, recipe.optim.lr, recipe.model.name
        (100, 0.001, 'demt_swin_small.nyud')
    """
    path = Path(source)
    if str(source) in list_recipes():
        path = _FOLDER / f"{source}.yaml"
    elif not path.is_file():
        raise FileNotFoundError(f"No recipe or file {str(source)!r}; recipes are {list_recipes()}")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"Recipe {str(path)!r} has {size:,} bytes, expected at most {_MAX_BYTES:,}")
    try:
        values = _load(path.read_text(encoding="utf-8"))
        _check_count(values)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return recipe_from({} if values is None else values, overrides)
    except ValueError as error:
        raise ValueError(f"Recipe {str(source)!r}: {error}") from error


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader`, but a name that is given twice is an error: yaml silently keeps the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} stands twice in line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    """The values of a YAML text. Raises `yaml.YAMLError`, `ValueError`, `RecursionError`."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _check_count(values: Any) -> None:
    """Raise `ValueError` for too many values: YAML's references let a few lines stand for billions."""
    rest, count = [values], 0
    while rest:
        value = rest.pop()
        count += 1
        if count > _MAX_VALUES:
            raise ValueError(f"it stands for more than {_MAX_VALUES:,} values")
        rest += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []


def recipe_from(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from nested mappings and changes; see `load_recipe`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"Expected a mapping of names to values, got {values!r}")
    merged = copy.deepcopy(dict(values))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"Expected changes as NAME=VALUE, e.g. optim.lr=1e-4, got {override!r}")
        *parts, last = name.strip().split(".")
        part = merged
        for key in parts:
            if part.get(key) is None:
                part[key] = {}
            part = part[key]
            if not isinstance(part, dict):
                raise ValueError(f"`{name}` cannot be set: `{key}` is {part!r}")
        try:
            part[last] = _load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"The value of {override!r} is not valid YAML: {error}") from error
    recipe = _build(Recipe, merged, "")
    sources_of(recipe.data)
    return recipe  # type: ignore[no-any-return]


def sources_of(data: DataPart) -> list[tuple[DataPart, float]]:
    """The data sets that are mixed, with their weights; `data` itself where there are no `sources`.

    Raises:
        ValueError: for a source with an unknown field, or a value of another type.
    """
    if not data.sources:
        return [(data, 1.0)]
    shared = {name: getattr(data, name) for name in _SHARED}
    parts = []
    for number, source in enumerate(data.sources):
        where, values = f"data.sources[{number}].", dict(source)
        weight = _value(float, values.pop("weight", 1.0), f"{where}weight")
        Range(0, without_least=True).check(f"{where}weight", weight, "")
        if unshared := sorted({"sources", "workers", "eval_batch_size"} & set(values)):
            raise ValueError(f"`{unshared[0]}` is a field of `data`, not of `{where[:-1]}`")
        try:
            part = _build(DataPart, {**shared, **values}, where)
        except ValueError as error:
            said = str(error)
            raise ValueError(said if where in said else said.replace("`data.", f"`{where}", 1)) from error
        if part.dataset in RELEASED:
            # Protocols settle the scale of published data.
            part = dataclasses.replace(part, max_size=None)
        parts.append((part, weight))
    return parts


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON and YAML have it: what `recipe_from` takes."""
    return _plain(dataclasses.asdict(recipe))  # type: ignore[no-any-return]


def recipe_yaml(recipe: Recipe, *, comments: bool = False) -> str:
    """The recipe as a YAML file's text; with `comments`, each setting says what it is, as the docstrings do."""
    if not comments:
        return _dump(recipe_dict(recipe))
    lines: list[str] = []
    for name, value in recipe_dict(recipe).items():
        part = getattr(recipe, name)
        if not dataclasses.is_dataclass(part):
            lines += [*_comment(Recipe, name, ""), _dump({name: value})]
            continue
        lines.append(f"{name}:\n")
        for field, entry in value.items():
            lines += [*_comment(type(part), field, "  "), textwrap.indent(_dump({field: entry}), "  ")]
    return "".join(lines)


def _dump(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _comment(cls: type, field: str, indent: str) -> list[str]:
    """What the docstring of a part of a recipe says of a field, as comment lines; once for fields that share it."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    for entry in re.split(r"\n(?=    \w)", "\n" + text):
        names, _, words = entry.strip().partition(": ")
        if names.split(", ")[0] == field:
            plain = " ".join(words.split()).replace("``", "")
            return [f"{indent}# {line}\n" for line in textwrap.wrap(plain, 100)]
    return []


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"Expected {where or 'a recipe'} to be a mapping of names to values, got {values!r}")
    hints = get_type_hints(cls)
    return cls(
        **{_known(name, hints, where): _value(hints[name], value, where + name) for name, value in values.items()}
    )


def _known(name: Any, hints: Mapping[str, Any], where: str) -> str:
    if name not in hints:
        close = get_close_matches(str(name), list(hints), n=3)
        hint = f"did you mean {close}?" if close else f"known are {list(hints)}"
        raise ValueError(f"Unknown name `{where}{name}`; {hint}")
    return str(name)


def _value(hint: Any, value: Any, name: str) -> Any:
    """`value` as type `hint`; YAML 1.1 reads 1e-4 as text, so numbers may come as such."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")
    if hint is Any:
        return value
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        if value is None and types.NoneType in get_args(hint):
            return None
        inner, *others = [option for option in get_args(hint) if option is not types.NoneType]
        if others and type(value) not in (inner, *others):
            wanted = " or ".join(option.__name__ for option in (inner, *others))
            raise ValueError(f"Expected `{name}` to be {wanted}, got {value!r}")
        return value if others else _value(inner, value, name)
    if kind is Literal:
        # YAML 1.1 reads a bare `no` as False.
        return "no" if value is False and "no" in get_args(hint) else value
    if kind is tuple and isinstance(value, (list, tuple)):
        inner, *others = get_args(hint)
        if others != [...] and len(value) != len(get_args(hint)):
            raise ValueError(f"Expected `{name}` to have {len(get_args(hint))} entries, got {value!r}")
        return tuple(_value(inner, entry, name) for entry in value)
    if kind is dict and get_args(hint)[1] is str and isinstance(value, str):
        value = parse_pairs(name, value)
    if kind is dict and isinstance(value, Mapping):
        return {str(key): _value(get_args(hint)[1], entry, f"{name}.{key}") for key, entry in value.items()}
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if hint in (str, int, bool) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = {tuple: "a list", dict: "a mapping"}.get(kind or hint, getattr(hint, "__name__", str(hint)))
    raise ValueError(f"Expected `{name}` to be {wanted}, got {value!r}")
