"""What a setting of a recipe may be, as part of its type: bounds of numbers, and names that something else lists."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from demt.tasks.checks import shown


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, of which either may be left out itself."""

    least: float
    most: float = math.inf
    without_least: bool = False
    without_most: bool = False

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"{'>' if self.without_least else '>='} {self.least:g}"
        return (
            f"in {'(' if self.without_least else '['}{self.least:g}, {self.most:g}{')' if self.without_most else ']'}"
        )

    def check(self, name: str, value: Any, otherwise: str) -> None:
        """Raise `ValueError` unless `value` is such a number; `otherwise` is what else it might have been."""
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Not a number is in no range, and infinity is none of ours.
        fits = fits and (value > self.least if self.without_least else value >= self.least)
        if not (fits and (value < self.most if self.without_most or self.most == math.inf else value <= self.most)):
            raise ValueError(f"Expected `{name}` {self}{otherwise}, got {shown(value)}")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Names that `names` lists when it is called."""

    names: Callable[[], Collection[str]]

    def check(self, name: str, value: Any, otherwise: str) -> None:
        """Raise `ValueError`, with the nearest names, unless `value` is such a name."""
        known = sorted(self.names())
        if value not in known:
            close = get_close_matches(str(value), known)
            hint = f"did you mean {close}?" if close else f"known are {known}"
            raise ValueError(f"Expected `{name}` to be a name that is known{otherwise}, got {shown(value)}; {hint}")


Positive: TypeAlias = Annotated[int, Range(1)]
Natural: TypeAlias = Annotated[int, Range(0)]
AboveZero: TypeAlias = Annotated[float, Range(0, without_least=True)]
NotNegative: TypeAlias = Annotated[float, Range(0)]
#: A side of an image, in pixels.
Side: TypeAlias = Annotated[int, Range(1, 2**15)]


def check_fields(part: Any, prefix: str) -> None:
    """Check the fields of a dataclass against what their types say of ranges and names.

    Raises:
        ValueError: naming the field, with `prefix`, what was expected and what came.
    """
    for name, hint in get_type_hints(type(part), include_extras=True).items():
        _check(hint, getattr(part, name), f"{prefix}{name}", "")


def _check(hint: Any, value: Any, name: str, otherwise: str) -> None:
    kind = get_origin(hint)
    if kind is Annotated:
        _, *limits = get_args(hint)
        for limit in limits:
            limit.check(name, value, otherwise)
    elif kind in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not types.NoneType]
        if value is not None and len(options) == 1:
            _check(options[0], value, name, " or none")
    elif kind is Literal:
        if value not in get_args(hint):
            raise ValueError(f"Expected `{name}` to be one of {get_args(hint)}, got {shown(value)}")
    elif kind is tuple:
        inner = get_args(hint)
        for place, entry in enumerate(value):
            _check(inner[0] if inner[-1] is ... else inner[place], entry, name, otherwise)
    elif kind is dict and isinstance(value, Mapping):
        for key, entry in value.items():
            _check(get_args(hint)[1], entry, f"{name}.{key}", otherwise)
