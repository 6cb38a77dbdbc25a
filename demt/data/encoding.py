"""How files encode labels: from stored numbers to label maps, with every value checked."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from demt.data.files import DataError, read_array
from demt.data.tv_tensors import IGNORE, Boundary, Depth, Disparity, Label, SurfaceNormals
from demt.tasks import Task, is_class_map

Kind = Literal["classes", "values", "depth", "disparity", "normals", "boundary"]
TYPES: dict[Kind, type[Label]] = {
    "classes": Label,
    "values": Label,
    "depth": Depth,
    "disparity": Disparity,
    "normals": SurfaceNormals,
    "boundary": Boundary,
}
FINITE = float(np.finfo(np.float32).max)
LIMITS: dict[Kind, tuple[float, float]] = {
    "depth": (0, FINITE),
    "disparity": (0, FINITE),
    "normals": (-1.001, 1.001),
    "boundary": (0, 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """What the numbers in a task's files mean: label = stored / divisor + offset.

    Args:
        divisor: See above.
        offset: See above.
        invalid: Stored values without a label; NaN is one if listed. In maps of several channels a pixel has no label
            when all its channels hold the value. What always means it: 255 in class maps (unless there is a
            `threshold`); depth and disparity of 0; in maps of normals, zero vectors, all of whose components are below
            1/128, as 127 and 128 of 8 bits are, and (-1, -1, -1), which is black.
        ids: Of class maps: class id of each stored value, in place of divisor and offset. Values it leaves out are
            errors unless they are `invalid`.
        colors: Of class maps saved as RGB: class id of each colour, 255 for colours without a label.
        threshold: Stored values above it become 1, others 0, in place of divisor and offset.
        signs: Factors of the three components of normals, to bring them to the axes of
            `demt.data.tv_tensors.SurfaceNormals`: (1, -1, 1) where y points up and x to the right.
        bits: Bits per channel that pictures must have.
        key: Variable of .npz and .mat files.
        kind: How transforms treat the map: ``"classes"``, ``"values"``, ``"depth"``, ``"disparity"``, ``"normals"`` or
            ``"boundary"``; by default derived from the task.

    Raises:
        ValueError: for an unknown kind or a divisor of 0.
    """

    divisor: float = 1.0
    offset: float = 0.0
    invalid: tuple[float, ...] = ()
    ids: Mapping[int, int] | None = None
    colors: Mapping[tuple[int, int, int], int] | None = None
    threshold: float | None = None
    signs: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bits: int | None = None
    key: str | None = None
    kind: Kind | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in get_args(Kind):
            raise ValueError(f"Expected `kind` of an encoding to be one of {get_args(Kind)}, got {self.kind!r}")
        if not self.divisor:
            raise ValueError(f"Expected `divisor` of an encoding to be a number other than 0, got {self.divisor!r}")

    def kind_for(self, task: Task) -> Kind:
        """Kind of the task's maps: as declared, else from the task."""
        if self.kind is not None:
            return self.kind
        if is_class_map(task):
            return "classes"
        if task.activation == "unit" and task.channels == 3:
            return "normals"
        if task.activation == "sigmoid":
            return "boundary"
        return "depth" if task.metric == "depth" else "values"

    def read(self, path: Path, task: Task, contents: bytes | NDArray[Any] | None = None) -> Label:
        """The label map (C, H, W) of a task that a file holds.

        Args:
            path: The file.
            task: The task.
            contents: Its contents, bytes or an array, if they are known already; `path` is then the name in errors
                alone.

        Raises:
            DataError: naming the file, if it cannot be read or holds what is no label of the task.
        """
        if isinstance(contents, np.ndarray):
            return self.decode(contents, task, path)
        # An index of a palette is a class id, but no grey value.
        ids = is_class_map(task) and self.threshold is None
        indices = ids and self.colors is None
        stored = read_array(path, contents=contents, key=self.key, bits=self.bits, indices=indices, lossless=ids)
        return self.decode(stored, task, path)

    def decode(self, stored: NDArray[Any], task: Task, path: Path) -> Label:
        """The label map (C, H, W) that a file's numbers (H, W) or (H, W, C) stand for.

        Raises:
            DataError: naming `path`, for values that are no label of the task.
        """
        kind = self.kind_for(task)
        if self.colors is not None:
            stored = self._ids_of_colors(stored, path)
        channels = 1 if is_class_map(task) else task.channels
        shape = "(H, W)" if channels == 1 else f"(H, W, {channels})"
        if self.threshold is not None and self.threshold > 1 and stored.max() == 1:
            raise DataError(
                f"{str(path)!r} holds 0 and 1, of which none is above the threshold of {self.threshold:g} for "
                f"{task.name!r}; declare the encoding 'classes'"
            )
        if (stored.shape[2] if stored.ndim == 3 else 1) != channels:
            hint = "; declare the `colors` of its classes" if is_class_map(task) and stored.shape[2:] == (3,) else ""
            raise DataError(f"{str(path)!r}: expected labels {shape} of task {task.name!r}, got {stored.shape}{hint}")
        values = self._classes(stored, task, path) if is_class_map(task) else self._values(stored, task, kind, path)
        values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return TYPES[kind](torch.from_numpy(np.ascontiguousarray(values)))

    def _classes(self, stored: NDArray[Any], task: Task, path: Path) -> NDArray[np.uint8]:
        if stored.dtype != np.uint8:
            with np.errstate(invalid="ignore"):
                whole = stored.astype(np.int64)
            if not np.array_equal(whole, stored) or whole.min() < -1 or whole.max() > 65535:
                raise DataError(
                    f"{str(path)!r}: expected integer class ids of task {task.name!r}, got values from "
                    f"{stored.min():g} to {stored.max():g} as {stored.dtype}"
                )
            # Index 0 of the table stands for -1, a usual mark of unlabelled pixels.
            table, index = self._table(range(-1, max(int(whole.max()), 0) + 1), task), whole + 1
        else:
            table, index = self._table(range(256), task), stored
        if table.max() > IGNORE:
            bad = (table > IGNORE)[index]
            if bad.any():
                value = stored[np.unravel_index(bad.argmax(), bad.shape)]
                raise DataError(
                    f"{str(path)!r}: stored value {value:g} is not a class of task {task.name!r}, which has "
                    f"{task.channels} classes, {IGNORE} for unlabelled pixels, and {self}"
                )
        labels: NDArray[np.uint8] = table.astype(np.uint8)[index]
        return labels

    def _table(self, stored: range, task: Task) -> NDArray[np.int64]:
        """Label of each stored value; 256 where there is none."""
        table = []
        for value in stored:
            if value in self.invalid:
                label: float = IGNORE
            elif self.threshold is not None:
                label = float(value > self.threshold)
            elif self.ids is not None:
                label = self.ids.get(value, IGNORE if value == IGNORE else 256)
            elif value == IGNORE:
                label = IGNORE
            else:
                label = value / self.divisor + self.offset
            table.append(int(label) if label == IGNORE or label in range(task.channels) else 256)
        return np.array(table)

    def _values(self, stored: NDArray[Any], task: Task, kind: Kind, path: Path) -> NDArray[np.float32]:
        values: NDArray[np.float32] = stored.astype(np.float32)
        if self.threshold is not None:
            values = (stored > self.threshold).astype(np.float32)
        elif self.divisor != 1 or self.offset != 0:
            values = values / np.float32(self.divisor) + np.float32(self.offset)
        void = np.zeros(stored.shape[:2], dtype=bool)
        for value in self.invalid:
            same = np.isnan(stored) if math.isnan(value) else stored == value
            void |= same if same.ndim == 2 else _over_channels(np.logical_and, same)
        if kind in ("depth", "disparity"):
            void |= (values == 0).reshape(*void.shape, -1).all(2)
        if kind == "normals":
            # 8 bits cannot hold 0: 127 and 128 are less than 1/128 from it. Black, (-1, -1, -1), has no unit length.
            void |= _over_channels(np.logical_and, np.abs(values) < 1 / 128)
            void |= _over_channels(np.logical_and, values == -1)
            void |= _over_channels(np.logical_or, values == IGNORE)
            values = values * np.array(self.signs, np.float32) if self.signs != (1, 1, 1) else values
        values[void] = 0
        low, high = LIMITS.get(kind, (-FINITE, FINITE))
        if not (low <= values.min() and values.max() <= high):
            wrong = ~((values >= low) & (values <= high)) & (values != IGNORE)
            if wrong.any():
                value = stored[wrong][0]
                raise DataError(
                    f"{str(path)!r}: label {values[wrong][0]:g} of task {task.name!r} found; expected finite values in "
                    f"[{low:g}, {high:g}], or {IGNORE} where there is none. Stored values are read as {self}; if "
                    f"{value:g} marks pixels without a label, declare Encoding(invalid=({value:g},), ...)"
                )
        values[void] = IGNORE
        return values

    def _ids_of_colors(self, stored: NDArray[Any], path: Path) -> NDArray[Any]:
        assert self.colors is not None
        if stored.dtype != np.uint8 or stored.shape[2:] != (3,):
            raise DataError(f"{str(path)!r}: expected a colour picture of 8 bits, got {stored.dtype} {stored.shape}")
        packed = stored.astype(np.int64) @ (65536, 256, 1)
        known = {(r << 16) + (g << 8) + b: label for (r, g, b), label in self.colors.items()}
        order = np.array(sorted(known))
        place = np.searchsorted(order, packed).clip(max=len(order) - 1)
        if (strange := order[place] != packed).any():
            color = tuple(int(c) for c in stored[np.unravel_index(strange.argmax(), strange.shape)])
            raise DataError(f"{str(path)!r}: colour {color} is not one of the declared `colors`")
        return np.array([known[value] for value in order.tolist()], dtype=np.int64)[place]

    def __str__(self) -> str:
        given = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}
        shown = {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}
        return f"Encoding({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _over_channels(combine: np.ufunc, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What ``combine.reduce(mask, 2)`` gives, several times as fast for few channels."""
    combined: NDArray[np.bool_] = functools.reduce(combine, (mask[:, :, c] for c in range(mask.shape[2])))
    return combined


#: Encodings by name, for `MultiTaskFolder` and `HubDataset`.
ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "classes": Encoding(),
        "void_first": Encoding(offset=-1, invalid=(0,)),
        "void_minus_one": Encoding(invalid=(-1,)),
        "mask": Encoding(threshold=127.5, bits=8),
        "metres": Encoding(invalid=(0, math.nan)),
        "millimetres": Encoding(divisor=1000, invalid=(0,), bits=16),
        "rgb_normals": Encoding(divisor=127.5, offset=-1, bits=8),
        "rgb_normals_16": Encoding(divisor=32767.5, offset=-1, bits=16),
        "grey": Encoding(divisor=255, bits=8),
        "values": Encoding(),
    }
)
