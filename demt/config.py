"""What a model is made of, as plain values: the content of config.json."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args

from demt.protocols import IMAGENET_MEAN, IMAGENET_STD
from demt.tasks import Task, resolve_tasks

Family = Literal["demt", "demtg", "degmix", "multitask_baseline"]
NeckName = Literal["linear", "patch", "taps"]
InitialOffsets = Literal["released", "zero"]
InteractionAttention = Literal["pointwise", "global"]
QueryAttention = Literal["pixelwise", "linear", "global"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "neck": get_args(NeckName),
    "interaction": get_args(InteractionAttention),
    "query": get_args(QueryAttention),
    "initial_offsets": get_args(InitialOffsets),
}
_OPTIONAL = ("neck", "offset_groups", "head_width")
_INTEGERS = {"in_chans": 1, "width": 1, "depth": 0, "heads": 1, "offset_groups": 1, "head_width": 1}
_DECODER_FIELDS = (
    "depth",
    "heads",
    "interaction",
    "query",
    "pre_norm",
    "gating",
    "offset_groups",
    "initial_offsets",
)
# No published model has a number above 1536 in it; a file from elsewhere may, to exhaust time or memory.
_LARGEST = 8192
# timm's arguments that demt sets itself, and the one that loads a file whenever a model is built.
_NOT_FOR_BACKBONES = {"checkpoint_path", "features_only", "in_chans", "num_classes", "pretrained"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that rebuilds a model, apart from its weights.

    Args:
        family: ``"demt"``, ``"demtg"``, ``"degmix"`` or ``"multitask_baseline"`` (neck and heads only).
        backbone: timm model name.
        tasks: Ordered tasks; see `resolve_tasks` for what may stand here.
        in_chans: Image channels.
        backbone_kwargs: Further arguments of the timm model.
        neck: ``"linear"``, ``"patch"`` or ``"taps"`` (`LinearNeck`, `PatchNeck`, `TapNeck`). By default ``"taps"`` on a
            plain ViT, else ``"patch"`` for DeGMix and ``"linear"`` for the others.
        width: Width D of all task maps.
        depth: Blocks of each task's deformable mixer; 0 for none.
        heads: Attention heads.
        interaction: Attention of the `TaskInteractionBlock`.
        query: Attention of the `TaskQueryBlock`.
        pre_norm: Whether query blocks normalise their inputs, as in DeGMix.
        gating: Whether a `GatingAttention`, shared by all tasks, follows the query blocks.
        offset_groups: Offset groups of the deformable operator; one per channel by default.
        initial_offsets: ``"released"`` or ``"zero"``; see `SpatialDeformable`.
        head_width: Hidden channels of the task heads; by default an eighth of the backbone's channels in sum.

    Raises:
        ValueError: naming the field, what was expected and what came.
    """

    family: Family
    backbone: str
    tasks: Mapping[str, Task]
    in_chans: int = 3
    backbone_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    neck: NeckName | None = None
    width: int = 256
    depth: int = 1
    heads: int = 4
    interaction: InteractionAttention = "pointwise"
    query: QueryAttention = "pixelwise"
    pre_norm: bool = False
    gating: bool = False
    offset_groups: int | None = None
    initial_offsets: InitialOffsets = "released"
    head_width: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", resolve_tasks(self.tasks))
        object.__setattr__(self, "backbone_kwargs", dict(self.backbone_kwargs))
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices and not (value is None and name in _OPTIONAL):
                raise ValueError(f"Expected `{name}` to be one of {choices}, got {value!r}")
        for name, least in _INTEGERS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"Expected `{name}` to be an integer >= {least}, got {value!r}")
        self._check_backbone()
        if self.family == "multitask_baseline":
            self._check_baseline()
        if self.query == "linear" and not self.pre_norm:
            raise ValueError("Expected `pre_norm` to be True with query='linear', got False")

    def _check_backbone(self) -> None:
        if taken := sorted(_NOT_FOR_BACKBONES.intersection(self.backbone_kwargs)):
            raise ValueError(f"Expected `backbone_kwargs` without {taken}: these are not for the backbone to set")
        sizes = [getattr(self, name) for name in _INTEGERS] + [task.channels for task in self.tasks.values()]
        if (largest := max(_numbers([sizes, self.backbone_kwargs]))) > _LARGEST:
            raise ValueError(f"Expected no number above {_LARGEST} in a model's configuration, got {str(largest)[:20]}")

    def _check_baseline(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in _DECODER_FIELDS and (value := getattr(self, field.name)) != field.default:
                raise ValueError(f"The multi-task baseline has no decoder: `{field.name}` has no effect, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "tasks": [task.to_dict() for task in self.tasks.values()]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`; raises `ValueError` on unknown or missing keys."""
        check_keys(values, cls, "the model's configuration")
        tasks = [Task.from_dict(task) for task in values["tasks"]]
        return cls(**{**values, "tasks": {task.name: task for task in tasks}})

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; raises `ValueError` on an unknown field, with the nearest names."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                close = get_close_matches(name, known, n=3)
                raise ValueError(
                    f"Unknown model argument {name!r}; " + (f"did you mean {close}?" if close else f"known: {known}")
                )
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedCfg:
    """How images are prepared for a model, and what its weights were made for.

    Args:
        tag: The part of the model's name after the dot.
        input_size: Channels, height and width the model was trained at.
        max_size: Longest side, in pixels, of images in evaluation and prediction: larger ones are shrunk to it, and
            what the network gives is brought back. None: images have their own size. By default (0, or left out of a
            config.json) the longer side of `input_size`.
        mean, std: Of image channels in [0, 1].
        file: The weights: a safetensors file on this machine.
        hf_hub_id: The Hub repository ``"org/name"`` that holds config.json and model.safetensors.
        revision: Commit (40 hexadecimal digits), tag or branch of that repository; its default branch if None.
        sha256: Of model.safetensors in that repository, as hexadecimal digits; other files are refused.
    """

    tag: str = ""
    input_size: tuple[int, int, int] = (3, 425, 560)
    max_size: int | None = 0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    file: str | None = None
    hf_hub_id: str | None = None
    revision: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("input_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.input_size) != 3 or any(not isinstance(v, int) or v < 1 for v in self.input_size):
            raise ValueError(f"Expected `input_size` to be (channels, height, width), got {self.input_size!r}")
        if self.max_size == 0:
            object.__setattr__(self, "max_size", max(self.input_size[1:]))
        if self.max_size is not None and (type(self.max_size) is not int or self.max_size < 1):
            raise ValueError(f"Expected `max_size` to be an integer >= 1 or None, got {self.max_size!r}")
        finite = all(math.isfinite(v) for v in (*self.mean, *self.std))
        if not finite or len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise ValueError(
                f"Expected finite `mean` and `std` of one length and std > 0, got {self.mean!r} and {self.std!r}"
            )
        for name in ("file", "hf_hub_id", "revision", "sha256"):
            if not isinstance(value := getattr(self, name), (str, NoneType)):
                raise ValueError(f"Expected `{name}` to be a string or None, got {value!r}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"Expected `sha256` to be 64 lower-case hexadecimal digits, got {self.sha256!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainedCfg:
        """Inverse of `to_dict`; raises `ValueError` on unknown keys."""
        check_keys(values, cls, "pretrained_cfg")
        return cls(**values)


def _numbers(values: Any) -> Iterator[float]:
    if isinstance(values, (list, tuple, Mapping)):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _numbers(value)
    elif isinstance(values, (int, float)):
        yield values


def check_keys(values: Mapping[str, Any], cls: type, where: str) -> None:
    """Raise `ValueError` unless the keys of `values` are fields of the dataclass `cls`, with all required ones."""
    if not isinstance(values, Mapping):
        raise ValueError(f"Expected {where} to be a mapping, got {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(f"Unknown keys {unknown} in {where}; known keys are {sorted(fields)}")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(values)):
        raise ValueError(f"Missing keys {missing} in {where}")
