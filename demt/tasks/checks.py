"""Checks of plain values, which may come from a file: types and ranges, before anything is made of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any


def shown(value: Any) -> str:
    """A value as messages show it: short, whatever it is."""
    try:
        text = repr(value)
    except ValueError:
        # Python writes no numbers of thousands of digits.
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


def check_integer(name: str, value: Any, least: int, most: int) -> None:
    """Raise `ValueError` unless `value` is an integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"Expected {name} to be an integer from {least} to {most}, got {shown(value)}")


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Raise `ValueError` unless `value` is a number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"Expected {name} to be a number from {least:g} to {most:g}, got {shown(value)}")


def check_flag(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"Expected {name} to be true or false, got {shown(value)}")


def check_text(name: str, value: Any, longest: int = 200) -> None:
    """Raise `ValueError` unless `value` is a text of at most `longest` printable characters.

    Others could move the cursor of the terminal that a message or a table is printed to.
    """
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"Expected {name} to be a text of at most {longest} printable characters, got {shown(value)}")


def check_plain(name: str, values: Any, largest: float, depth: int = 4) -> None:
    """Raise `ValueError` unless `values` is a mapping of texts to what JSON holds, without numbers above `largest`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"Expected {name} to be a mapping of names to values, got {shown(values)}")
    for key, value in values.items():
        check_text(f"a key of {name}", key)
        _check_value(f"{name} entry {key!r}", value, largest, depth)


def _check_value(name: str, value: Any, largest: float, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        check_number(name, value, -largest, largest)
    elif isinstance(value, str):
        check_text(name, value, 1000)
    elif isinstance(value, (list, tuple)) and depth and len(value) <= 1000:
        for entry in value:
            _check_value(name, entry, largest, depth - 1)
    elif isinstance(value, Mapping) and depth and len(value) <= 1000:
        check_plain(name, value, largest, depth - 1)
    else:
        raise ValueError(f"Expected {name} to be a number, a text or a short list of these, got {shown(value)}")


def colours(name: str, values: Iterable[Any]) -> tuple[tuple[int, int, int], ...]:
    """RGB colours as integers.

    Raises:
        ValueError: for anything but three integers from 0 to 255 each.
    """

    def colour(value: Any) -> tuple[int, int, int]:
        try:
            red, green, blue = map(operator.index, value)
        except (TypeError, ValueError):
            red = green = blue = -1
        if not (0 <= red <= 255 and 0 <= green <= 255 and 0 <= blue <= 255):
            raise ValueError(f"Expected {name} to have entries (red, green, blue) of 0 to 255, got {shown(value)}")
        return red, green, blue

    return tuple(map(colour, values))
