"""Inputs and outputs of an ONNX file, as described in a YAML or JSON file beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from demt.data.declare import parse_tasks
from demt.tasks import BUILTIN, Task, resolve_tasks

Scaling = Literal["none", "sigmoid", "softmax", "minmax", "0..255"]
ENDINGS = (".yaml", ".yml", ".json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """Which output of a file is a task's map, and what its numbers mean.

    Args:
        output: Name or number of the output: (1, C, h, w), or (1, h, w).
        channel: The one channel to take of several, after `scaling`.
        scaling: What makes probabilities of the numbers: ``"sigmoid"``; ``"softmax"`` over the channels; ``"minmax"``,
            from each picture's smallest to its largest; ``"0..255"``, a division by 255; ``"none"``.
        factor: Of depth and other values, e.g. 0.001 for millimetres.
        signs: Factors of normals' components, to bring them to the axes of `demt.data.tv_tensors.SurfaceNormals`.
        channels: Number of classes; of an own task, of its maps.
        kind: Of an own task: ``classes``, ``values``, ``boundary`` or ``normals``, as in `demt.data.declare.KINDS`.
    """

    output: str | int = 0
    channel: int | None = None
    scaling: Scaling = "none"
    factor: float = 1.0
    signs: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: int | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.scaling not in get_args(Scaling):
            raise ValueError(f"expected `scaling` to be one of {get_args(Scaling)}, got {self.scaling!r}")
        if not isinstance(self.output, (str, int)) or isinstance(self.output, bool):
            raise ValueError(f"expected `output` to be the name or number of an output, got {self.output!r}")
        if self.channel is not None and not _is_whole(self.channel, 0):
            raise ValueError(f"expected `channel` to be a number from 0, got {self.channel!r}")
        if self.channels is not None and not _is_whole(self.channels, 1):
            raise ValueError(f"expected `channels` to be a number from 1, got {self.channels!r}")
        _numbers("factor", [self.factor], 1)
        object.__setattr__(self, "signs", _numbers("signs", self.signs, 3))

    def task(self, name: str) -> Task:
        """The task of this name."""
        if name not in BUILTIN and self.kind is None:
            raise ValueError(f"unknown task {name!r}; known are {list(BUILTIN)}, others need `channels` and `kind`")
        count = "" if self.channels is None else f"={self.channels}"
        return resolve_tasks(parse_tasks(f"{name}{count}{f':{self.kind}' if self.kind else ''}"))[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """How a picture becomes the input of an ONNX file, (pixel / divisor - mean) / std, and outputs become maps.

    Args:
        size: Height and width that pictures are resized to; or one number, which their longer side then has; by
            default what the file says, else the pictures' own size.
        multiple: Where a size is not fixed: of what number sides are multiples.
        channels: ``"rgb"`` or ``"bgr"``; `mean` and `std` are in the same order.
        divisor: See above.
        mean, std: See above; three numbers.
        layout: ``"nchw"``, or ``"nhwc"`` of inputs and outputs.
        outputs: An `Output` of each task, by its name.
    """

    outputs: dict[str, Output]
    size: tuple[int, int] | int | None = None
    multiple: int = 1
    channels: Literal["rgb", "bgr"] = "rgb"
    divisor: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["nchw", "nhwc"] = "nchw"

    def __post_init__(self) -> None:
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if self.size is not None and (len(sides) != 2 or not all(_is_whole(side, 1) for side in sides)):
            raise ValueError(f"expected `size` as [height, width] or one number, got {self.size!r}")
        if not _is_whole(self.multiple, 1):
            raise ValueError(f"expected `multiple` to be a number from 1, got {self.multiple!r}")
        for name, known in (("channels", ("rgb", "bgr")), ("layout", ("nchw", "nhwc"))):
            if getattr(self, name) not in known:
                raise ValueError(f"expected `{name}` to be one of {known}, got {getattr(self, name)!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), 3))
        if 0 in (*_numbers("divisor", [self.divisor], 1), *self.std):
            raise ValueError("expected `divisor` and `std` to be other than 0")


def read_description(path: Path) -> Description:
    """The description in a ``.yaml``, ``.yml`` or ``.json`` file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file and the field that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else _yaml(text)
        description = _build(Description, values, "")
        for name, output in description.outputs.items():
            output.task(name)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} describes no ONNX teacher: {' '.join(str(error).split())}") from error
    return description  # type: ignore[no-any-return]


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"expected {where or 'it'} to be a mapping of names to values, got {values!r}")
    known = [field.name for field in dataclasses.fields(cls)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"unknown name {unknown[0]!r}{f' in {where}' if where else ''}; known are {known}")
    values = dict(values)
    if cls is Description:
        outputs = values.get("outputs")
        if not isinstance(outputs, Mapping) or not outputs:
            raise ValueError("expected `outputs`, a mapping such as {sal: {output: 0, scaling: sigmoid}}")
        values["outputs"] = {str(name): _build(Output, each or {}, f"outputs.{name}") for name, each in outputs.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{f'{where}: ' if where else ''}{error}") from None


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ImportError("Descriptions in YAML need PyYAML: pip install pyyaml, or write JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {error}") from error


def _numbers(name: str, values: Any, count: int) -> tuple[Any, ...]:
    if (
        not isinstance(values, (list, tuple))
        or len(values) != count
        or not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    ):
        wanted = "a number" if count == 1 else f"{count} numbers"
        raise ValueError(f"expected `{name}` to be {wanted}, got {values[0] if count == 1 else values!r}")
    return tuple(float(value) for value in values)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
