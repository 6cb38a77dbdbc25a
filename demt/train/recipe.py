"""What a training run is made of, as plain values: the content of a recipe's YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from demt.data.declare import own_encodings, own_tasks
from demt.data.published_layouts import get_layout
from demt.losses.multitask import Balancing
from demt.protocols import CITYSCAPES_SIZES, PROTOCOLS
from demt.tasks import DATASETS, RELEASED
from demt.train.ranges import AboveZero, Natural, NotNegative, OneOf, Positive, Range, Side, check_fields

DatasetName = Literal["nyud", "pascal", "cityscapes", "rooms", "folder", "hub"]
Zoom = Annotated[float, Range(0, 100, without_least=True)]


def _optimisers() -> list[str]:
    from timm.optim import list_optimizers

    names: list[str] = list_optimizers()
    return [*names, *(f"lookahead_{name}" for name in names)]


def _protocols() -> list[str]:
    return [*PROTOCOLS, *CITYSCAPES_SIZES]


def _trackers() -> list[str]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return [*LOGGER_TYPE_TO_CLASS, "all"]


def _check_names(data: DataPart) -> None:
    """Raise `ValueError` for names of tasks, encodings, columns or a layout that the data set cannot have."""
    if data.dataset in DATASETS:
        known = DATASETS[data.dataset]
        if isinstance(data.tasks, str):
            raise ValueError(f"Expected `data.tasks` of {data.dataset} to be a list of names, got {data.tasks!r}")
        names = list(known if data.tasks is None else data.tasks)
        unknown = [name for name in names if name not in known]
        if unknown or not names or len(set(names)) < len(names):
            raise ValueError(f"Expected `data.tasks` to name some of {list(known)}, each once, got {names}")
    elif isinstance(data.tasks, (str, Mapping)):
        tasks = own_tasks(data.tasks)
        own_encodings(tasks, data.encodings)
        if unknown := sorted(set(data.columns) - {"image", "id", *tasks}):
            raise ValueError(f"`data.columns` names {unknown}; expected 'image', 'id' or one of {list(tasks)}")
    elif data.tasks is not None:
        raise ValueError(f"Own data needs `data.tasks`, such as semseg=5,depth, got {data.tasks!r}")
    if data.dataset in RELEASED and data.layout != "auto":
        get_layout(data.dataset, data.layout)
    # Other data is scored by the settings of PASCAL-Context.
    protocols = list(CITYSCAPES_SIZES if data.dataset == "cityscapes" else PROTOCOLS)
    if data.protocol is not None and data.protocol not in protocols:
        raise ValueError(f"Expected `data.protocol` of {data.dataset} to be one of {protocols}, got {data.protocol!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelPart:
    """Which network, from which weights, and which of its parameters learn.

    Args:
        name: As for `demt.create_model`: a name, ``local-dir:PATH`` or ``hf-hub:ORG/NAME``.
        pretrained: Start from the weights of that name; None: where it has some on this machine or the Hub, and
            `pretrained_backbone` names no file.
        pretrained_backbone: Start from timm's weights of the backbone (not where the whole model has weights), or from
            a file's: its path, see `demt.create_model`.
        init: Start from what another model, named as in `name`, has under the same names and in the same shapes: its
            backbone, for example. Such a model is loaded with its weights.
        args: Further arguments of `demt.create_model`. The tasks are the data's.
        backbone: ``"train"``; ``"freeze"`` ("DeGMix-Tuning": in eval mode, only neck, decoder and heads learn); or
            ``"lora"`` (low-rank updates of its linear layers, through peft).
        only: Parts that learn, by the beginning of their parameters' names: ``[head.heads]``. All else keeps its values
            and its statistics of batch normalisation. Empty: no such limit.
        lora_rank, lora_alpha: Rank r of the updates, and their factor ``lora_alpha / r``.
        freeze_norm: Batch normalisation keeps its running statistics: for batches of very few images.
        sync_bn: Batch normalisation over all processes, on GPUs.
        grad_checkpointing: Recompute activations in the backward pass: less memory, more time.
        compile: Compile the model with torch.compile.
    """

    name: str = "degmix_swin_tiny.nyud"
    pretrained: bool | None = False
    pretrained_backbone: bool | str = True
    init: str | None = None
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    backbone: Literal["train", "freeze", "lora"] = "train"
    only: tuple[str, ...] = ()
    lora_rank: Annotated[int, Range(1, 8192)] = 8
    lora_alpha: AboveZero = 16.0
    freeze_norm: bool = False
    sync_bn: bool = True
    grad_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "model.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPart:
    """Which images and labels, and how they are prepared.

    Args:
        dataset: ``"nyud"``, ``"pascal"``, ``"cityscapes"``; ``"folder"``, own data (`demt.data.MultiTaskFolder`);
            ``"hub"``, own data in Parquet files or on the Hub (`demt.data.HubDataset`); or ``"rooms"``,
            `demt.data.SyntheticRooms`.
        root: Folder of the data set; of ``"hub"``, a Parquet file, a folder of such, or a name on the Hub.
        tasks: Own data: channels, or a task's fields, by name; or the text that ``demt data check`` proposes,
            ``"semseg=5,depth"``, as `encodings` may be one. Others: the names to take, as a list; by default all.
        protocol: Settles size, edge weight and metrics, e.g. ``"atrc"``: see `demt.data.transforms.train_transform`.
        size: Height and width of training crops (of images, for rooms); by default the published size.
        max_size: Longest side of own images: larger ones are shrunk in training (with their labels, before they are
            augmented), in evaluation and afterwards in `demt.predict` (labels keep their size there). By default the
            longer side of the training crops.
        augment: Whether training images are augmented; without it they are normalised and padded only.
        variation: Of how training images look: ``"usual"``, the published distortion of colours; or ``"strong"``,
            `demt.data.transforms.strong_variation`, which helps rooms to teach something of photographs.
        zoom: Lowest and highest factor of the random zoom; of rooms, only with `render`, and not of Cityscapes.
        encodings, index, images: Own data: see `demt.data.MultiTaskFolder`.
        train_ids, val_ids: Own data: which samples train and which evaluate, as a file of names or a list.
        columns, subset, revision: Of ``"hub"``: see `demt.data.HubDataset`.
        train_split, val_split: Of ``"hub"``: which splits train and evaluate, also parts such as ``"train[:90%]"``;
            none for `val_split`: no part in the evaluation.
        length, val_length: Rooms: numbers of training and evaluation scenes.
        render: Rooms: height and width that they are drawn at where that is larger than `size`: training zooms and
            crops as with own data, and evaluation sees whole rooms.
        layout: Published data sets: see `demt.data.published_layouts`.
        sources: Several data sets in place of one, as a list of mappings with the fields above, and ``weight``, their
            share (1 by default). `size`, `max_size`, `augment`, `variation`, `zoom`, `in_memory` and `on_error` are
            those of `data` where a source has none, and so are the fields below. The tasks are those of all. A source
            with ``val_ids: []`` (rooms: ``val_length: 0``) has no part in the evaluation.
        in_memory: Keep what has been read, for the next epoch: see `demt.data.InMemory`.
        on_error: ``"raise"``, or ``"skip"`` broken training samples.
        workers: Processes that load data, for each training process.
        eval_batch_size: Images of an evaluation batch in each process; those of one size run together.
    """

    dataset: DatasetName = "folder"
    root: str = "data"
    tasks: Any = None
    protocol: Annotated[str, OneOf(_protocols)] | None = None
    size: tuple[Side, Side] | None = None
    max_size: Annotated[int, Range(1, 2**20)] | None = None
    augment: bool = True
    variation: Literal["usual", "strong"] = "usual"
    zoom: tuple[Zoom, Zoom] = (0.5, 2.0)
    encodings: dict[str, str] = dataclasses.field(default_factory=dict)
    index: str | None = None
    images: str = "images"
    train_ids: Any = None
    val_ids: Any = None
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    subset: str | None = None
    revision: str | None = None
    train_split: str = "train"
    val_split: str | None = "validation"
    length: Positive = 1000
    val_length: Natural = 100
    render: tuple[Side, Side] | None = None
    layout: str = "auto"
    sources: tuple[dict[str, Any], ...] = ()
    in_memory: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    workers: Annotated[int, Range(0, 1024)] = 2
    eval_batch_size: Positive = 1

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"Expected `data.zoom` to be the lowest and the highest factor, got {self.zoom}")
        if not self.sources:
            _check_names(self)

    @property
    def is_evaluated(self) -> bool:
        """Whether there is something to evaluate on."""
        if self.dataset == "hub":
            return self.val_split is not None
        return self.val_length > 0 if self.dataset == "rooms" else self.val_ids != []


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimPart:
    """How parameters move.

    Args:
        name: Optimiser, by timm's name: ``"adamw"``; ``"momentum"`` is SGD with momentum, ``"sgd"`` adds Nesterov's.
        lr: Largest learning rate.
        weight_decay: Weight decay.
        decay_all: Decay biases and normalisation, too.
        momentum: Of SGD; other optimisers keep their own.
        layer_decay: Factor of the learning rate from each layer of the backbone to the one before; None: one rate.
        lr_factors: Factors of the learning rate of parts of the model, by the beginning of their parameters' names:
            ``{"head.heads": 10}``. Where two fit, the longer one holds.
        schedule: Of the learning rate, for each step: ``"poly"`` (1 - t/T)^power, ``"cosine"`` or ``"constant"``.
        power: Of ``"poly"``.
        warmup: Steps over which the learning rate rises from 0.
        clip_grad: Largest norm of the gradient; None: any.
    """

    name: Annotated[str, OneOf(_optimisers)] = "adamw"
    lr: AboveZero = 2e-4
    weight_decay: NotNegative = 0.05
    decay_all: bool = False
    momentum: Annotated[float, Range(0, 1, without_most=True)] = 0.9
    layer_decay: Annotated[float, Range(0, 1, without_least=True)] | None = None
    lr_factors: dict[str, AboveZero] = dataclasses.field(default_factory=dict)
    schedule: Literal["poly", "cosine", "constant"] = "cosine"
    power: AboveZero = 0.9
    warmup: Natural = 0
    clip_grad: AboveZero | None = None

    def __post_init__(self) -> None:
        check_fields(self, "optim.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run.

    Args:
        model, data, optim: See `ModelPart`, `DataPart`, `OptimPart`.
        out: Folder of the run: checkpoints, logs, pictures.
        steps: Optimiser steps.
        batch_size: Images of an optimiser step, over all processes and accumulated parts: a recipe means the same on
            one GPU and on eight.
        accumulate: Parts in which each process computes its share of a batch.
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"``, through Accelerate.
        balancing: See `demt.losses.MultiTaskLoss`.
        loss_weights: Factors of tasks' losses; others keep their own.
        ema: Decay of an average of the weights that is evaluated and saved in their place; None: no average.
        seed: Of everything that is drawn.
        eval_every, save_every, log_every: Steps between evaluations, checkpoints and log lines; the last step has all.
        keep: Newest checkpoints that stay; 2, so that one can be damaged. `best` is kept beside them.
        best: What the best checkpoint has: the lowest ``"loss"`` on the evaluation images, or the best value of a
            metric such as ``"semseg/miou"``.
        samples: Evaluation images whose predictions are drawn at each evaluation.
        trackers: Accelerate's names of loggers beside the CSV files: ``"tensorboard"``, ``"wandb"``, …

    Raises:
        ValueError: for values out of range.
    """

    model: ModelPart = dataclasses.field(default_factory=ModelPart)
    data: DataPart = dataclasses.field(default_factory=DataPart)
    optim: OptimPart = dataclasses.field(default_factory=OptimPart)
    out: str = "runs/demt"
    steps: Positive = 10_000
    batch_size: Positive = 8
    accumulate: Positive = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    balancing: Balancing = "fixed"
    loss_weights: dict[str, NotNegative] = dataclasses.field(default_factory=dict)
    ema: Annotated[float, Range(0, 1, without_most=True)] | None = None
    seed: Natural = 0
    eval_every: Positive = 1000
    save_every: Positive = 1000
    log_every: Positive = 20
    keep: Positive = 2
    best: str = "loss"
    samples: Natural = 4
    trackers: tuple[Annotated[str, OneOf(_trackers)], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"Expected `batch_size` to be a multiple of `accumulate`, got {self.batch_size} and {self.accumulate}"
            )
        if self.optim.warmup >= self.steps:
            raise ValueError(f"Expected `optim.warmup` below `steps` ({self.steps}), got {self.optim.warmup}")
        if not self.data.sources and self.data.max_size is not None and self.data.dataset in RELEASED:
            raise ValueError(
                f"Expected `data.max_size` for own data and rooms only (protocols settle that of published data), got "
                f"{self.data.max_size} for {self.data.dataset}"
            )
        if not self.data.sources and not self.data.is_evaluated:
            field = {"hub": "val_split", "rooms": "val_length"}.get(self.data.dataset, "val_ids")
            raise ValueError(
                f"Expected `data.{field}` to name something to evaluate on, got {getattr(self.data, field)!r}; only "
                "sources of a mixture may have nothing"
            )
