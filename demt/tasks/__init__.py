"""What a task is: its output channels, how logits become a prediction, its loss and metric, and its colours.

Six tasks are built in (`semseg`, `human_parts`, `sal`, `normals`, `depth`, `edge`); any other is a `Task` a user
declares. A model's tasks are an ordered ``dict[str, Task]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, Any, Literal, get_args

from demt.classes import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    NYUD_CLASSES,
    NYUD_PALETTE,
    PART_CLASSES,
    PART_PALETTE,
    PASCAL_CLASSES,
    PASCAL_PALETTE,
    ROOMS_CLASSES,
    ROOMS_PALETTE,
    Palette,
)
from demt.plugins import LOSSES, METRICS
from demt.tasks.checks import check_flag, check_integer, check_number, check_text, colours, shown

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["argmax", "foreground", "sigmoid", "unit", "identity"]

#: Largest number of logit channels; that of the published tasks is 40.
MAX_CHANNELS = 8192
#: Public attributes of torch.nn.ModuleDict: a module cannot be stored in one under these names, and those that begin
#: with an underscore. Written down, since importing torch takes seconds.
RESERVED = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches
    eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type update values xpu zero_grad
    """.split()  # noqa: SIM905
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One dense prediction task.

    Args:
        name: Key of the task in a model's output, e.g. ``"semseg"``.
        channels: Number of logit channels.
        activation: How logits (B, channels, H, W) become a prediction (see `Task.predict`): ``"argmax"`` class ids;
            ``"foreground"`` softmax probability of channel 1; ``"sigmoid"`` probability; ``"unit"`` unit vectors;
            ``"identity"`` the value itself.
        loss: Training loss: a name (see `demt.plugins.register_loss`) or a function
            ``loss(logits, target, *, ignore_index) -> scalar``, the mean over valid pixels.
        loss_args: Further keyword arguments of that loss, e.g. ``{"pos_weight": 0.8}``.
        loss_weight: Factor of that loss in the multi-task sum (the published weights for the built-in tasks).
        metric: Evaluation metric: a name (see `demt.plugins.register_metric`) or a factory
            ``metric(task) -> torchmetrics.Metric``.
        ignore_index: Label value that marks unlabelled pixels.
        foreground_only: An image whose labels hold no class but 0 counts as unlabelled, in the loss and in the metric.
        classes: Class names, one per channel, for class maps.
        palette: RGB colours (0-255), one per class, for pictures of class maps.
        unit: Physical unit of the prediction, e.g. ``"m"``.

    Raises:
        ValueError: if a value is out of range or lengths of `classes`, `palette` and `channels` disagree.

    Example:
        >>> from demt.tasks import Task
        >>> Task(name="height", channels=1, unit="m").predict.__name__
        'predict'
    """

    name: str
    channels: int
    activation: Activation = "identity"
    loss: str | Callable[..., Tensor] = "l1"
    loss_args: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
    loss_weight: float = 1.0
    metric: str | Callable[..., Any] = "rmse"
    ignore_index: int = 255
    foreground_only: bool = False
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or len(self.name) > 100:
            raise ValueError(f"Expected `name` of a task to be a Python identifier, got {shown(self.name)}")
        if self.name in RESERVED or self.name.startswith("_"):
            raise ValueError(
                f"A task cannot have the name {self.name!r}, which torch.nn.ModuleDict uses; choose another"
            )
        where = f"of task {self.name!r}"
        check_integer(f"`channels` {where}", self.channels, 1, MAX_CHANNELS)
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"Expected `activation` {where} to be one of {get_args(Activation)}, got {shown(self.activation)}"
            )
        if self.activation == "foreground" and self.channels != 2:
            raise ValueError(f"Task {self.name!r}: activation 'foreground' needs 2 channels, got {self.channels}")
        for field in ("loss", "metric"):
            if not isinstance(value := getattr(self, field), str) and not callable(value):
                raise ValueError(f"Expected `{field}` {where} to be a name or a callable, got {shown(value)}")
            if isinstance(value, str):
                check_text(f"`{field}` {where}", value)
        if self.loss_args is not None and not isinstance(self.loss_args, Mapping):
            raise ValueError(
                f"Expected `loss_args` {where} to be a mapping of names to values, got {shown(self.loss_args)}"
            )
        check_number(f"`loss_weight` {where}", self.loss_weight, 0, 1e9)
        check_integer(f"`ignore_index` {where}", self.ignore_index, -(2**31), 2**31)
        check_flag(f"`foreground_only` {where}", self.foreground_only)
        if self.unit is not None:
            check_text(f"`unit` {where}", self.unit, 32)
        self._check_classes(where)

    def _check_classes(self, where: str) -> None:
        for field in ("classes", "palette"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, str) or not isinstance(value, Sized)):
                raise ValueError(f"Expected `{field}` {where} to be a list, got {shown(value)}")
            if value is not None and len(value) != self.channels:
                raise ValueError(
                    f"Expected `{field}` {where} to have {self.channels} entries (one per channel), got {len(value)}"
                )
        # JSON has no tuples: accept lists so that a config round-trips.
        if self.classes is not None:
            for name in self.classes:
                check_text(f"`classes` {where}", name)
            object.__setattr__(self, "classes", tuple(self.classes))
        if self.palette is not None:
            object.__setattr__(self, "palette", colours(f"`palette` {where}", self.palette))

    def predict(self, logits: Tensor) -> Tensor:
        """Turn logits (B, channels, H, W) into the prediction in its physical meaning.

        Returns:
            ``argmax``: (B, H, W) int64; ``foreground`` and ``sigmoid``: (B, H, W) in [0, 1];
            ``unit``: (B, channels, H, W) of length 1; ``identity``: (B, H, W), or (B, channels, H, W) of several.
        """
        if self.activation == "argmax":
            return logits.argmax(1)
        values = logits.float()
        if self.activation == "foreground":
            return values.softmax(1)[:, 1]
        if self.activation == "sigmoid":
            values = values.sigmoid()
        if self.activation == "unit":
            values = values / values.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return values[:, 0] if self.channels == 1 else values

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: the fields that differ from their defaults; a function is written as its name."""
        return {
            field.name: _jsonable(field.name, value)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Inverse of `to_dict`. Raises `ValueError` on unknown keys."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping):
            raise ValueError(f"Expected a task to be a mapping of names to values, got {shown(values)}")
        if unknown := sorted(map(str, set(values) - known)):
            raise ValueError(f"Unknown keys {unknown} in a task; known keys are {sorted(known)}")
        if missing := sorted({"name", "channels"} - set(values)):
            raise ValueError(f"A task needs the keys ['name', 'channels']; missing {missing}")
        return cls(**values)


def _jsonable(field: str, value: Any) -> Any:
    if field == "palette":
        return [list(colour) for colour in value]
    if field == "loss_args":
        return dict(value)
    if field in ("loss", "metric"):
        return (LOSSES if field == "loss" else METRICS).name_of(value)
    return value


def is_class_map(task: Task) -> bool:
    """Whether the task's labels are class ids: one map, whatever the number of logit channels."""
    return task.activation in ("argmax", "foreground")


def _semseg(channels: int, classes: tuple[str, ...] | None = None, palette: Palette | None = None) -> Task:
    return Task(
        name="semseg",
        channels=channels,
        activation="argmax",
        loss="cross_entropy",
        metric="miou",
        classes=classes,
        palette=palette,
    )


#: The built-in tasks with their usual channels (`semseg` as in PASCAL-Context).
BUILTIN: dict[str, Task] = {
    "semseg": _semseg(21, PASCAL_CLASSES, PASCAL_PALETTE),
    "human_parts": Task(
        name="human_parts",
        channels=7,
        activation="argmax",
        loss="cross_entropy",
        loss_weight=2.0,
        metric="miou",
        foreground_only=True,
        classes=PART_CLASSES,
        palette=PART_PALETTE,
    ),
    "sal": Task(
        name="sal",
        channels=2,
        activation="foreground",
        loss="balanced_cross_entropy",
        loss_weight=5.0,
        metric="maxf",
    ),
    "normals": Task(
        name="normals", channels=3, activation="unit", loss="normals_l1", loss_weight=10.0, metric="normals"
    ),
    "depth": Task(name="depth", channels=1, activation="identity", loss="l1", metric="depth", unit="m"),
    "edge": Task(
        name="edge",
        channels=1,
        activation="sigmoid",
        loss="balanced_bce",
        loss_args={"pos_weight": 0.95},
        loss_weight=50.0,
        metric="boundary",
    ),
}

_ROOMS = {
    "semseg": _semseg(16, ROOMS_CLASSES, ROOMS_PALETTE),
    **{name: BUILTIN[name] for name in ("human_parts", "sal", "normals", "depth", "edge")},
}

#: Task sets of the data sets: the three of the released models, in their order, `demt.data.SyntheticRooms`, and rooms
#: mixed with photographs that teachers labelled.
DATASETS: dict[str, dict[str, Task]] = {
    "nyud": {
        "semseg": _semseg(40, NYUD_CLASSES, NYUD_PALETTE),
        "depth": BUILTIN["depth"],
        "normals": BUILTIN["normals"],
        "edge": dataclasses.replace(BUILTIN["edge"], loss_args={"pos_weight": 0.8}),
    },
    "pascal": {name: BUILTIN[name] for name in ("semseg", "human_parts", "sal", "normals", "edge")},
    "cityscapes": {
        "semseg": _semseg(19, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE),
        "depth": dataclasses.replace(BUILTIN["depth"], unit="px"),
    },
    "rooms": _ROOMS,
    "photos": _ROOMS,
}

#: Data sets of the released models.
RELEASED = ("nyud", "pascal", "cityscapes")

TaskSpec = Mapping[str, "int | Task | Mapping[str, Any]"]


def resolve_tasks(tasks: str | TaskSpec) -> dict[str, Task]:
    """Turn what a user writes into ordered tasks.

    Args:
        tasks: A data set's name (``"nyud"``, ``"pascal"``, ``"cityscapes"``, ``"rooms"``, ``"photos"``) or a mapping
            from task name to the number of channels (built-in tasks), a `Task`, or a task's dict form.

    Raises:
        ValueError: for an unknown data set, an unknown task given by its channels alone, or a channel count that the
            built-in task cannot have (`normals` has 3, `depth` and `edge` 1, `sal` 2).

    Example:
        >>> list(resolve_tasks({"semseg": 150, "depth": 1}))
        ['semseg', 'depth']
    """
    if isinstance(tasks, str):
        if tasks not in DATASETS:
            raise ValueError(f"Expected `tasks` to name one of {sorted(DATASETS)} or to be a mapping, got {tasks!r}")
        return dict(DATASETS[tasks])
    if not isinstance(tasks, Mapping) or not tasks:
        raise ValueError(f"Expected `tasks` to be a non-empty mapping such as {{'semseg': 19}}, got {tasks!r}")
    return {name: _resolve_task(name, spec) for name, spec in tasks.items()}


def _resolve_task(name: str, spec: int | Task | Mapping[str, Any]) -> Task:
    if isinstance(spec, Mapping):
        spec = Task.from_dict({"name": name, **spec})
    if isinstance(spec, Task):
        if spec.name != name:
            raise ValueError(f"Task {spec.name!r} stands under the key {name!r} in `tasks`; use the same name")
        return spec
    if name not in BUILTIN:
        raise ValueError(
            f"Unknown task {name!r} in `tasks`: built-in tasks are {sorted(BUILTIN)}. Declare your own with "
            f"demt.Task(name={name!r}, channels={spec!r}, activation=..., loss=..., metric=...)"
        )
    builtin = BUILTIN[name]
    if builtin.activation != "argmax" and spec != builtin.channels:
        raise ValueError(f"Task {name!r} has {builtin.channels} channels, got {spec!r}; declare a demt.Task to differ")
    if spec == builtin.channels:
        return builtin
    # A number of classes stands for those of a published data set only.
    published = (task for dataset in RELEASED for task in DATASETS[dataset].values())
    known = [task for task in published if (task.name, task.channels) == (name, spec)]
    return known[0] if known else dataclasses.replace(builtin, channels=spec, classes=None, palette=None)
