"""The configuration of a model as plain values: the content of config.json."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args

from demt.protocols import IMAGENET_MEAN, IMAGENET_STD
from demt.tasks import Task, resolve_tasks
from demt.tasks.checks import check_flag, check_integer, check_number, check_plain, check_text, shown

Family = Literal["demt", "demtg", "degmix", "multitask_baseline", "refined_baseline"]
#: Families that have nothing between the neck and the heads.
BASELINES = ("multitask_baseline", "refined_baseline")
NeckName = Literal["linear", "patch", "taps", "fpn", "ppm", "fapn", "dpt"]
InitialOffsets = Literal["released", "zero"]
InteractionAttention = Literal["pointwise", "global", "window", "deformable"]
QueryAttention = Literal["pixelwise", "linear", "global", "window", "deformable"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "neck": get_args(NeckName),
    "interaction": get_args(InteractionAttention),
    "query": get_args(QueryAttention),
    "initial_offsets": get_args(InitialOffsets),
}
_OPTIONAL = ("neck", "offset_groups", "head_width", "refine_width")
# No published model has a number above 1536; a hostile file may have one, to exhaust time or memory.
_LARGEST = 8192
# Constructors of some backbones (TinyViT, EfficientViT, MaxViT) loop over all pairs of pixels of a window.
_LARGEST_SIZES = {"window": 32, "grid_size": 32, "img_size": 4096}
# MaxViT's windows are the image's sides, of 512 at the most by default, divided by this.
_RATIO, _LEAST_RATIO, _LARGEST_PART = "partition_ratio", 8, 128
_INTEGERS = {
    "in_chans": (1, _LARGEST),
    "width": (1, _LARGEST),
    "depth": (0, 64),
    "heads": (1, 1024),
    "window": (1, 256),
    "points": (1, 32),
    "offset_groups": (1, _LARGEST),
    "head_width": (1, _LARGEST),
    "refine_width": (1, _LARGEST),
}
_MAX_TASKS = 64
# Those of strides 2 to 16: what is coarser, the decoder has seen.
_MOST_STAGES = 4
_DECODER_FIELDS = (
    "depth",
    "heads",
    "interaction",
    "query",
    "window",
    "points",
    "pre_norm",
    "gating",
    "offset_groups",
    "initial_offsets",
)
# timm's arguments that demt sets itself, and those that load files, or decide where and in what form weights are.
_NOT_FOR_BACKBONES = frozenset(
    """
    cache_dir checkpoint_path device dtype exportable features_only in_chans no_jit num_classes out_indices pretrained
    pretrained_strict scriptable
    """.split()  # noqa: SIM905
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to rebuild a model, except its weights.

    Args:
        family: ``"demt"``, ``"demtg"``, ``"degmix"``, ``"multitask_baseline"`` (neck and heads only) or
            ``"refined_baseline"`` (the same with refined logits, in no paper).
        backbone: timm model name.
        tasks: Ordered tasks; see `resolve_tasks` for what is accepted.
        in_chans: Image channels.
        backbone_kwargs: Further arguments of the timm model.
        neck: ``"linear"``, ``"patch"`` or ``"taps"`` (`LinearNeck`, `PatchNeck`, `TapNeck`), or from other papers
            ``"fpn"``, ``"ppm"``, ``"fapn"`` or ``"dpt"`` (`FPNNeck`, `PPMNeck`, `FaPNNeck`, `DPTNeck`). By default
            ``"taps"`` on a plain ViT, else ``"patch"`` for DeGMix and ``"linear"`` for the others.
        width: Width D of all task maps.
        depth: Blocks of each task's deformable mixer; 0 for none.
        heads: Attention heads.
        interaction: Attention of the `TaskInteractionBlock`.
        query: Attention of the `TaskQueryBlock`.
        window: Side in pixels of the windows of ``"window"`` attention. Where both blocks have it, those of the
            `TaskQueryBlock` are shifted by half of it.
        points: Points per head of ``"deformable"`` attention, in the map of each task.
        pre_norm: Whether query blocks normalise their inputs, as in DeGMix.
        gating: Whether a `GatingAttention`, shared by all tasks, follows the query blocks.
        offset_groups: Offset groups of the deformable operator; one per channel by default.
        initial_offsets: ``"released"`` or ``"zero"``; see `SpatialDeformable`.
        head_width: Hidden channels of the task heads; by default an eighth of the backbone's channels in sum.
        refine_width: Channels of a refinement of the logits at half the image's size (`DetailStem`,
            `DetailRefinement`); none by default.
        refine_stages: Tasks whose details come from a copy of the backbone's first stages, with weights of its own
            (`DetailPyramid`), and not from the stem that the others share: numbers of stages and of channels, as in
            ``{"edge": (3, 24)}``.

    Raises:
        ValueError: naming the field, what was expected and what was given.
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
    window: int = 8
    points: int = 4
    pre_norm: bool = False
    gating: bool = False
    offset_groups: int | None = None
    initial_offsets: InitialOffsets = "released"
    head_width: int | None = None
    refine_width: int | None = None
    refine_stages: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", resolve_tasks(self.tasks))
        if len(self.tasks) > _MAX_TASKS:
            raise ValueError(f"Expected at most {_MAX_TASKS} `tasks`, got {len(self.tasks)}")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices and not (value is None and name in _OPTIONAL):
                raise ValueError(f"Expected `{name}` to be one of {choices}, got {shown(value)}")
        for name, (least, most) in _INTEGERS.items():
            if (value := getattr(self, name)) is not None or name not in _OPTIONAL:
                check_integer(f"`{name}`", value, least, most)
        check_flag("`pre_norm`", self.pre_norm)
        check_flag("`gating`", self.gating)
        check_text("`backbone`", self.backbone)
        check_plain("`backbone_kwargs`", self.backbone_kwargs, _LARGEST)
        for part, largest in _LARGEST_SIZES.items():
            sizes = {name: value for name, value in self.backbone_kwargs.items() if part in name}
            check_plain("`backbone_kwargs`", sizes, largest)
        self._check_ratios()
        object.__setattr__(self, "backbone_kwargs", dict(self.backbone_kwargs))
        if taken := sorted(_NOT_FOR_BACKBONES.intersection(self.backbone_kwargs)):
            raise ValueError(f"Expected `backbone_kwargs` without {taken}: these are not for the backbone to set")
        self._check_stages()
        if not self.has_decoder:
            self._check_baseline()
        if self.query == "linear" and not self.pre_norm:
            raise ValueError("Expected `pre_norm` to be True with query='linear', got False")

    @property
    def has_decoder(self) -> bool:
        """Whether there is something between the neck and the heads."""
        return self.family not in BASELINES

    def _check_ratios(self) -> None:
        side = self.backbone_kwargs.get("img_size", 1)
        largest = max(side, default=1) if isinstance(side, (list, tuple)) else side
        for name, value in self.backbone_kwargs.items():
            if _RATIO in name and value is not None:
                least = max(_LEAST_RATIO, -(-largest // _LARGEST_PART)) if isinstance(largest, int) else _LEAST_RATIO
                check_integer(f"`backbone_kwargs` entry {name!r}", value, least, _LARGEST)

    def _check_stages(self) -> None:
        stages = self.refine_stages
        if not isinstance(stages, Mapping):
            raise ValueError(f"Expected `refine_stages` to be a mapping of tasks to pairs, got {shown(stages)}")
        if stages and self.refine_width is None:
            raise ValueError(f"Expected a `refine_width` with `refine_stages` {shown(dict(stages))}, got None")
        for name, pair in stages.items():
            if name not in self.tasks:
                raise ValueError(f"Expected `refine_stages` of the tasks {list(self.tasks)}, got {shown(name)}")
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ValueError(
                    f"Expected `refine_stages` entry {name!r} to be numbers of stages and channels, got {shown(pair)}"
                )
            check_integer(f"stages in `refine_stages` entry {name!r}", pair[0], 1, _MOST_STAGES)
            check_integer(f"channels in `refine_stages` entry {name!r}", pair[1], 1, _LARGEST)
        object.__setattr__(self, "refine_stages", {name: tuple(pair) for name, pair in stages.items()})

    def _check_baseline(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in _DECODER_FIELDS and (value := getattr(self, field.name)) != field.default:
                raise ValueError(
                    f"The family {self.family!r} has no decoder: `{field.name}` has no effect, got {value!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        stages = {name: list(pair) for name, pair in self.refine_stages.items()}
        return {**values, "tasks": [task.to_dict() for task in self.tasks.values()], "refine_stages": stages}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`; raises `ValueError` on unknown or missing keys."""
        check_keys(values, cls, "the model's configuration")
        if not isinstance(values["tasks"], (list, tuple)):
            raise ValueError(f"Expected `tasks` to be a list, got {shown(values['tasks'])}")
        tasks = [Task.from_dict(task) for task in values["tasks"][: _MAX_TASKS + 1]]
        if len(named := {task.name: task for task in tasks}) < len(tasks):
            raise ValueError(f"Expected `tasks` of different names, got {[task.name for task in tasks]}")
        return cls(**{**values, "tasks": named})

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; raises `ValueError` on an unknown field, with the nearest names."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                close = get_close_matches(name, known, n=3)
                raise ValueError(
                    f"Unknown model argument {name!r}; " + (f"did you mean {close}?" if close else f"known: {known}")
                )
        if "tasks" in changes and "refine_stages" not in changes:
            kept = resolve_tasks(changes["tasks"])
            changes["refine_stages"] = {name: pair for name, pair in self.refine_stages.items() if name in kept}
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedCfg:
    """How images are prepared for a model, and what its weights were made for.

    Args:
        tag: The part of the model's name after the dot.
        input_size: Channels, height and width the model was trained at.
        max_size: Longest side, in pixels, of images in evaluation and prediction: larger ones are shrunk to it, and
            predictions are resized back. None: images have their own size. By default (0, or left out of a
            config.json) the longer side of `input_size`.
        mean, std: Of image channels in [0, 1].
        trained_on: What the weights were trained on, in words, shown with predictions; None if not stated.
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
    trained_on: str | None = None
    file: str | None = None
    hf_hub_id: str | None = None
    revision: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        check_text("`tag`", self.tag)
        for name, length in (("input_size", 3), ("mean", None), ("std", None)):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or len(value) != (length or len(value)) or not value:
                raise ValueError(f"Expected `{name}` to be a list of {length or 'numbers'}, got {shown(value)}")
            object.__setattr__(self, name, tuple(value))
        for name, value in zip(("channels", "height", "width"), self.input_size):
            check_integer(f"{name} in `input_size`", value, 1, 2**15)
        if self.max_size == 0 and self.max_size is not False:
            object.__setattr__(self, "max_size", max(self.input_size[1:]))
        if self.max_size is not None:
            check_integer("`max_size`, unless None,", self.max_size, 1, 2**20)
        # Images are in [0, 1]: other statistics than these would leave no digits of them.
        for name, least in (("mean", -1e4), ("std", 1e-5)):
            for value in getattr(self, name):
                check_number(f"each value of `{name}`", value, least, 1e4)
        if len(self.mean) != len(self.std):
            raise ValueError(f"Expected `mean` and `std` of the same length, got {self.mean!r} and {self.std!r}")
        for name in ("trained_on", "file", "hf_hub_id", "revision", "sha256"):
            if not isinstance(value := getattr(self, name), (str, NoneType)):
                raise ValueError(f"Expected `{name}` to be a string or None, got {shown(value)}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"Expected `sha256` to be 64 lower-case hexadecimal digits, got {shown(self.sha256)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainedCfg:
        """Inverse of `to_dict`; raises `ValueError` on unknown keys."""
        check_keys(values, cls, "pretrained_cfg")
        return cls(**values)


def each_channel(cfg: PretrainedCfg, chans: int) -> PretrainedCfg:
    """Preprocessing with a mean and a standard deviation for each of `chans` channels.

    Those of three channels become their mean for grey images, and repeat for further channels; one repeats.

    Raises:
        ValueError: if there are neither `chans`, three nor one.
    """
    if len(cfg.mean) not in (1, 3, chans):
        raise ValueError(f"Expected `mean` and `std` of {chans} channels, got {cfg.mean!r} and {cfg.std!r}")

    def expanded(values: tuple[float, ...]) -> tuple[float, ...]:
        values = (sum(values) / len(values),) if chans == 1 else values
        return tuple(values[i % len(values)] for i in range(chans))

    size = (chans, *cfg.input_size[1:])
    return dataclasses.replace(cfg, input_size=size, mean=expanded(cfg.mean), std=expanded(cfg.std))


def check_keys(values: Mapping[str, Any], cls: type, where: str) -> None:
    """Raise `ValueError` unless the keys of `values` are fields of the dataclass `cls`, with all required ones."""
    if not isinstance(values, Mapping):
        raise ValueError(f"Expected {where} to be a mapping, got {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(map(str, set(values) - set(fields))):
        raise ValueError(f"Unknown keys {unknown} in {where}; known keys are {sorted(fields)}")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(values)):
        raise ValueError(f"Missing keys {missing} in {where}")
