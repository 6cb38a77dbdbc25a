"""The data of a training run, in an order and with augmentations that depend on the seed and the step alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from demt.config import PretrainedCfg
from demt.data import HubDataset, InMemory, MultiTaskDataset, MultiTaskFolder, SyntheticRooms
from demt.data.augment import PhotometricDistortion, Shrink
from demt.data.batch import Sample
from demt.data.files import DataError
from demt.data.mixture import Mixture, draw_order
from demt.data.published import READERS
from demt.data.transforms import eval_transform, strong_variation, train_transform
from demt.models.variants import TRAINED_ON
from demt.protocols import PROTOCOLS
from demt.tasks import Task
from demt.train.reading import sources_of
from demt.train.recipe import DataPart, Recipe
from demt.train.stopping import outlive_signals

#: Data sets whose tasks and encodings a recipe declares.
OWN = ("folder", "hub")


def open_dataset(
    data: DataPart, split: str, cfg: PretrainedCfg | None = None, *, tasks: Mapping[str, Task] | None = None
) -> MultiTaskDataset:
    """The data set of a recipe.

    Rooms are drawn as they are to be seen: without `DataPart.render` their augmentation neither zooms nor crops.

    Args:
        data: What to open.
        split: ``"train"`` (augmented) or ``"val"``.
        cfg: The model's preprocessing: image channels, and their mean and standard deviation.
        tasks: Those of all sources of a mixture, where they are known: a source that the split has no samples of is not
            opened for them then.

    Raises:
        ValueError, DataError: if the settings do not fit together, or the data set is not there.
    """
    if data.sources:
        return _open_mixture(data, split, cfg, tasks)
    dataset = _open(data, split)
    set_transform(dataset, data, split, cfg or PretrainedCfg())
    return InMemory(dataset) if data.in_memory else dataset


def set_transform(dataset: MultiTaskDataset, data: DataPart, split: str, cfg: PretrainedCfg) -> None:
    """Give a data set that `open_dataset` opened the transform and the image channels of another preprocessing."""
    if isinstance(dataset, Mixture):
        for source, (part, _) in zip(dataset.sources, _parts(data, split)):
            set_transform(source, part, split, cfg)
        return
    files = dataset.dataset if isinstance(dataset, InMemory) else dataset
    if isinstance(files, (HubDataset, MultiTaskFolder)):
        files.in_chans = len(cfg.mean)
    published = data.dataset in READERS
    training = split == "train"
    options: dict[str, Any] = {"mean": cfg.mean, "std": cfg.std}
    strong = data.variation == "strong"
    if data.dataset == "rooms" and training and data.augment and data.render is None:
        looks = strong_variation() if strong else PhotometricDistortion()
        transform = v2.Compose([v2.RandomHorizontalFlip(0.5), looks, eval_transform(**options)])
    else:
        size = data.size if data.augment or data.render is None else data.render
        options["size"] = size if training or published else None
        if published:
            options |= {"dataset": data.dataset, "protocol": data.protocol}
        if training and data.augment:
            transform = train_transform(**options, zoom=data.zoom, strong=strong)
        else:
            transform = eval_transform(**options)
    if data.dataset in OWN and training and (scale := working_scale(data)):
        # Training sees things at the size at which they are evaluated and predicted.
        transform = v2.Compose([Shrink(scale), *transform.transforms])
    dataset.transform = transform


def working_scale(data: DataPart) -> int | None:
    """Longest side of own images in training and evaluation: larger ones are shrunk."""
    return data.max_size or (max(data.size) if data.size else None)


def _open(data: DataPart, split: str) -> MultiTaskDataset:
    on_error = data.on_error if split == "train" else "raise"
    if data.dataset in READERS:
        dataset = READERS[data.dataset](data.root, split, tasks=data.tasks, layout=data.layout, on_error=on_error)
        if data.protocol in PROTOCOLS:
            weighted = PROTOCOLS[data.protocol].tasks(data.dataset)
            for name in set(dataset.tasks) & {"edge"}:
                dataset.tasks[name] = dataclasses.replace(dataset.tasks[name], loss_args=weighted[name].loss_args)
        return dataset
    if data.dataset == "rooms":
        size = data.render or data.size or (96, 128)
        lengths = {"train": data.length, "val": data.val_length}
        # Two seeds have no scene in common.
        return SyntheticRooms(size, lengths[split], seed=int(split == "val"), tasks=data.tasks)
    if not isinstance(data.tasks, (Mapping, str)):
        raise ValueError(f"Own data needs `data.tasks`, such as semseg=5,depth, got {data.tasks!r}")
    if data.dataset == "hub":
        part = data.train_split if split == "train" else data.val_split
        if part is None:
            raise ValueError("Expected `data.val_split` to name a split; only sources of a mixture may have none")
        return HubDataset(
            data.root,
            data.tasks,
            split=part,
            columns=data.columns,
            encodings=data.encodings,
            subset=data.subset,
            revision=data.revision,
            on_error=on_error,
        )
    return MultiTaskFolder(
        data.root,
        data.tasks,
        encodings=data.encodings,
        index=data.index,
        ids=data.train_ids if split == "train" else data.val_ids,
        images=data.images,
        on_error=on_error,
    )


def _open_mixture(data: DataPart, split: str, cfg: PretrainedCfg | None, tasks: Mapping[str, Task] | None) -> Mixture:
    parts, opened = sources_of(data), _parts(data, split)
    if not opened:
        raise ValueError("All of `data.sources` are left out of the evaluation; give one of them `val_ids`")
    if tasks is None:
        # The model has the tasks of all sources, evaluated or not.
        others = [_open(part, "train").tasks for part, _ in parts if (part, _) not in opened]
        tasks = {name: task for each in others for name, task in each.items()}
    return Mixture([(open_dataset(part, split, cfg), weight) for part, weight in opened], tasks=tasks)


def _parts(data: DataPart, split: str) -> list[tuple[DataPart, float]]:
    """The sources that a split has samples of, and their weights."""

    def evaluated(part: DataPart) -> bool:
        if part.dataset == "hub":
            return part.val_split is not None
        return part.val_length > 0 if part.dataset == "rooms" else part.val_ids != []

    return [(part, weight) for part, weight in sources_of(data) if split == "train" or evaluated(part)]


def is_published(data: DataPart) -> bool:
    """Whether all data is that of published data sets, whose protocols settle the scale of evaluation."""
    return all(part.dataset in READERS for part, _ in sources_of(data))


def describe(data: DataPart) -> str:
    """Where the images come from, in words."""
    return ", ".join("synthetic rooms" if part.dataset == "rooms" else part.root for part, _ in sources_of(data))


def learnt_from(data: DataPart, dataset: MultiTaskDataset) -> str:
    """What a model is trained on, in words for its config.json: without paths of this machine.

    Where a source has no labels of some tasks, those that it has are named.
    """
    sources = dataset.sources if isinstance(dataset, Mixture) else [dataset]
    words = []
    for (part, _), source in zip(sources_of(data), sources):
        what = TRAINED_ON.get(part.dataset) or f"own data ({Path(part.root).name})"
        partly = len(source.tasks) < len(dataset.tasks)
        words.append(f"{what} for {', '.join(source.tasks)}" if partly else what)
    return "; ".join(words)


class _Draws(Sampler[tuple[int, int]]):
    """Pairs (sample, position in the run), which the seed and the position settle."""

    def __init__(self, dataset: MultiTaskDataset, positions: range, seed: int) -> None:
        self.dataset, self.positions, self.seed = dataset, positions, seed

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from zip(draw_order(self.dataset, self.positions, self.seed), self.positions)


class _Share(Sampler[list[Any]]):
    """A process's entries of each batch."""

    def __init__(self, batches: BatchSampler, entries: list[int]) -> None:
        self.batches, self.entries = batches, entries

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self.batches:
            yield [batch[entry] for entry in self.entries]


class SampleError(ValueError):
    """A sample cannot be read, or not be put into a batch with others. The message names its file or its id."""

    def __init__(self, message: str) -> None:
        # Torch makes an error of a worker process anew, from a text with its stack trace.
        super().__init__(message.rpartition(f"{SampleError.__name__}: ")[2].strip())


class Batches(Dataset[Any]):
    """A data set that gives whole batches, with errors that name the sample, in whatever process that happens.

    Args:
        dataset: Gives the samples.
        seed: Draw augmentations anew from it and the position in the run, the second number of each index; None: the
            second number says whether the sample counts, and samples of unequal sizes become several batches.
    """

    def __init__(self, dataset: MultiTaskDataset, seed: int | None) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, draws: list[tuple[int, int]]) -> Any:
        """A batch of these samples, or a list of batches, each of one size."""
        samples = [self._sample(*draw) for draw in draws]
        if self.seed is not None:
            return self._collate(samples)
        groups: dict[Any, list[tuple[Sample, int]]] = {}
        for sample, (_, counts) in zip(samples, draws):
            sizes = tuple((name, value.shape[-2:]) for name, value in sample.items() if isinstance(value, torch.Tensor))
            groups.setdefault(sizes, []).append((sample, counts))
        return [(self._collate([s for s, _ in group]), [bool(c) for _, c in group]) for group in groups.values()]

    def _sample(self, index: int, position: int) -> Sample:
        if self.seed is not None:
            seed_all(self.seed, position)
        try:
            return self.dataset[index]
        except DataError as error:
            raise SampleError(str(error)) from error
        except Exception as error:
            ids = getattr(self.dataset, "ids", None)
            raise SampleError(f"Sample {ids[index] if ids else index!r}: {type(error).__name__}: {error}") from error

    def _collate(self, samples: list[Sample]) -> Sample:
        try:
            return self.dataset.collate(samples)
        except (ValueError, RuntimeError, TypeError) as error:
            raise SampleError(f"Samples {[sample.get('id', '?') for sample in samples]}: {error}") from error


def same(batch: Any) -> Any:
    """`collate_fn` of batches that are whole already."""
    return batch


def seed_all(*numbers: int) -> None:
    """Seed the generators of torch, NumPy and Python from whole numbers."""
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]) % 2**32)  # noqa: NPY002
    random.seed(int(state[1]))


def train_loader(
    dataset: MultiTaskDataset, recipe: Recipe, start: int = 0, rank: int = 0, processes: int = 1
) -> DataLoader[Sample]:
    """A process's batches of the run from step `start` to its end, each of ``batch_size / accumulate / processes``."""
    positions = range(start * recipe.batch_size, recipe.steps * recipe.batch_size)
    length = recipe.batch_size // recipe.accumulate // processes
    draws = list(range(rank * length, (rank + 1) * length))
    batches: Any = _Share(
        BatchSampler(
            _Draws(dataset, positions, recipe.seed),  # type: ignore[arg-type]
            length * processes,
            drop_last=False,
        ),
        draws,
    )
    return DataLoader(
        Batches(dataset, recipe.seed),
        batch_sampler=batches,
        collate_fn=same,
        num_workers=recipe.data.workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=outlive_signals,
    )


def guess_dataset(root: Path) -> str:
    """``"nyud"``, ``"pascal"`` or ``"cityscapes"`` where a folder holds one, else ``"folder"``, for own data."""
    from demt.data.published_layouts import detect_layout

    for name in READERS:
        try:
            detect_layout(name, root, "val")
        except DataError as error:
            if "fits the layouts" not in str(error):
                continue
        return name
    return "folder"


def share_of(length: int, rank: int, processes: int, batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """A process's batches of an evaluation: pairs (sample, whether it counts); every process gets as many.

    Where samples do not suffice for all, the first ones fill up and do not count.
    """
    rows = -(-length // processes)
    for start in range(0, rows, batch_size):
        indices = [row * processes + rank for row in range(start, min(start + batch_size, rows))]
        yield [(index % length, int(index < length)) for index in indices]


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
