"""What a training run is made of, as plain values: the content of a recipe's YAML file."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from demt.losses.multitask import Balancing
from demt.tasks import RELEASED

DatasetName = Literal["nyud", "pascal", "cityscapes", "rooms", "folder", "hub"]


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
    lora_rank: int = 8
    lora_alpha: float = 16.0
    freeze_norm: bool = False
    sync_bn: bool = True
    grad_checkpointing: bool = False
    compile: bool = False


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
    protocol: str | None = None
    size: tuple[int, int] | None = None
    max_size: int | None = None
    augment: bool = True
    variation: Literal["usual", "strong"] = "usual"
    zoom: tuple[float, float] = (0.5, 2.0)
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
    length: int = 1000
    val_length: int = 100
    render: tuple[int, int] | None = None
    layout: str = "auto"
    sources: tuple[dict[str, Any], ...] = ()
    in_memory: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    workers: int = 2
    eval_batch_size: int = 1


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
        schedule: Of the learning rate, for each step: ``"poly"`` (1 - t/T)^power, ``"cosine"`` or ``"constant"``.
        power: Of ``"poly"``.
        warmup: Steps over which the learning rate rises from 0.
        clip_grad: Largest norm of the gradient; None: any.
    """

    name: str = "adamw"
    lr: float = 2e-4
    weight_decay: float = 0.05
    decay_all: bool = False
    momentum: float = 0.9
    layer_decay: float | None = None
    schedule: Literal["poly", "cosine", "constant"] = "cosine"
    power: float = 0.9
    warmup: int = 0
    clip_grad: float | None = None


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
    steps: int = 10_000
    batch_size: int = 8
    accumulate: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    balancing: Balancing = "fixed"
    loss_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    ema: float | None = None
    seed: int = 0
    eval_every: int = 1000
    save_every: int = 1000
    log_every: int = 20
    keep: int = 2
    best: str = "loss"
    samples: int = 4
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulate": 1, "seed": 0, "samples": 0}
        least |= dict.fromkeys(("eval_every", "save_every", "log_every", "keep"), 1)
        at_least = [(name, getattr(self, name), bottom) for name, bottom in least.items()]
        at_least += [("data.workers", self.data.workers, 0), ("data.eval_batch_size", self.data.eval_batch_size, 1)]
        at_least += [("optim.warmup", self.optim.warmup, 0), ("model.lora_rank", self.model.lora_rank, 1)]
        for name, value, bottom in at_least:
            if value < bottom:
                raise ValueError(f"Expected `{name}` >= {bottom}, got {value}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"Expected `batch_size` to be a multiple of `accumulate`, got {self.batch_size} and {self.accumulate}"
            )
        published = self.data.dataset in RELEASED and not self.data.sources
        if self.data.max_size is not None and (self.data.max_size < 1 or published):
            raise ValueError(
                f"Expected `data.max_size` >= 1, for own data and rooms only (protocols settle that of published "
                f"data), got {self.data.max_size} for {self.data.dataset}"
            )
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"Expected `ema` in [0, 1) or none, got {self.ema}")
        optim, infinity = self.optim, math.inf
        ranges = [("lr", optim.lr, 0 < optim.lr < infinity, "> 0")]
        ranges += [("weight_decay", optim.weight_decay, 0 <= optim.weight_decay < infinity, ">= 0")]
        ranges += [("momentum", optim.momentum, 0 <= optim.momentum < 1, "in [0, 1)")]
        ranges += [("power", optim.power, 0 < optim.power < infinity, "> 0")]
        if optim.layer_decay is not None:
            ranges += [("layer_decay", optim.layer_decay, 0 < optim.layer_decay <= 1, "in (0, 1] or none")]
        if optim.clip_grad is not None:
            ranges += [("clip_grad", optim.clip_grad, 0 < optim.clip_grad < infinity, "> 0 or none")]
        for name, value, fits, wanted in ranges:
            if not fits:
                raise ValueError(f"Expected `optim.{name}` {wanted}, got {value}")
        if self.optim.warmup >= self.steps:
            raise ValueError(f"Expected `optim.warmup` below `steps` ({self.steps}), got {self.optim.warmup}")
