"""The data of a training run, in an order and with augmentations that depend on the seed and the step alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from demt.config import PretrainedCfg
from demt.data import InMemory, MultiTaskDataset, MultiTaskFolder, SyntheticRooms
from demt.data.augment import PhotometricDistortion
from demt.data.batch import Sample
from demt.data.published import READERS
from demt.data.transforms import eval_transform, train_transform
from demt.protocols import PROTOCOLS
from demt.train.recipe import DataPart, Recipe


def open_dataset(data: DataPart, split: str, cfg: PretrainedCfg | None = None) -> MultiTaskDataset:
    """The data set of a recipe.

    Rooms are drawn as they are to be seen: their augmentation neither zooms nor crops.

    Args:
        data: What to open.
        split: ``"train"`` (augmented) or ``"val"``.
        cfg: The model's preprocessing: mean and standard deviation of the images.

    Raises:
        ValueError, DataError: if the settings do not fit together, or the data set is not there.
    """
    dataset = _open(data, split, cfg or PretrainedCfg())
    return InMemory(dataset) if data.in_memory else dataset


def _open(data: DataPart, split: str, cfg: PretrainedCfg) -> MultiTaskDataset:
    published = data.dataset in READERS
    kind = train_transform if split == "train" and data.augment else eval_transform
    transform = kind(
        data.dataset if published else None,
        protocol=data.protocol if published else None,
        size=data.size if split == "train" or published else None,
        mean=cfg.mean,
        std=cfg.std,
    )
    on_error = data.on_error if split == "train" else "raise"
    if published:
        dataset = READERS[data.dataset](
            data.root, split, tasks=data.tasks, transform=transform, layout=data.layout, on_error=on_error
        )
        if data.protocol in PROTOCOLS:
            weighted = PROTOCOLS[data.protocol].tasks(data.dataset)
            for name in set(dataset.tasks) & {"edge"}:
                dataset.tasks[name] = dataclasses.replace(dataset.tasks[name], loss_args=weighted[name].loss_args)
        return dataset
    if data.dataset == "rooms":
        size, lengths = data.size or (96, 128), {"train": data.length, "val": data.val_length}
        if split == "train" and data.augment:
            finish = eval_transform(mean=cfg.mean, std=cfg.std)
            transform = v2.Compose([v2.RandomHorizontalFlip(0.5), PhotometricDistortion(), finish])
        # Two seeds have no scene in common.
        return SyntheticRooms(size, lengths[split], seed=int(split == "val"), tasks=data.tasks, transform=transform)
    if not isinstance(data.tasks, Mapping):
        raise ValueError(f"Own data needs `data.tasks`, such as {{semseg: 5, depth: 1}}, got {data.tasks!r}")
    return MultiTaskFolder(
        data.root,
        data.tasks,
        encodings=data.encodings,
        index=data.index,
        ids=data.train_ids if split == "train" else data.val_ids,
        images=data.images,
        transform=transform,
        on_error=on_error,
    )


class _Draws(Sampler[tuple[int, int]]):
    """Pairs (sample, position in the run): each epoch is a permutation that the seed and the epoch settle."""

    def __init__(self, length: int, positions: range, seed: int) -> None:
        self.length, self.positions, self.seed = length, positions, seed

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, known = np.empty(0, int), -1
        for position in self.positions:
            epoch, place = divmod(position, self.length)
            if epoch != known:
                order, known = np.random.default_rng((self.seed, epoch)).permutation(self.length), epoch
            yield int(order[place]), position


class _Seeded(Dataset[Sample]):
    """A data set whose augmentations are drawn anew from the position in the run, in whatever process that happens."""

    def __init__(self, dataset: Dataset[Sample], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: tuple[int, int]) -> Sample:
        index, position = draw
        seed_all(self.seed, position)
        return self.dataset[index]


def seed_all(*numbers: int) -> None:
    """Seed the generators of torch, NumPy and Python from whole numbers."""
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]) % 2**32)  # noqa: NPY002
    random.seed(int(state[1]))


def train_loader(dataset: MultiTaskDataset, recipe: Recipe, start: int = 0) -> DataLoader[Sample]:
    """Batches of the run from step `start` to its end: those of all processes, each of ``batch_size / accumulate``."""
    positions = range(start * recipe.batch_size, recipe.steps * recipe.batch_size)
    batches: Any = BatchSampler(
        _Draws(len(dataset), positions, recipe.seed),  # type: ignore[arg-type]
        recipe.batch_size // recipe.accumulate,
        drop_last=False,
    )
    return DataLoader(
        _Seeded(dataset, recipe.seed),
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=recipe.data.workers,
        pin_memory=torch.cuda.is_available(),
    )


def guess_dataset(root: Path) -> str:
    """``"nyud"``, ``"pascal"`` or ``"cityscapes"`` where a folder holds one, else ``"folder"``, for own data."""
    from demt.data.files import DataError
    from demt.data.published_layouts import detect_layout

    for name in READERS:
        try:
            detect_layout(name, root, "val")
        except DataError as error:
            if "fits the layouts" not in str(error):
                continue
        return name
    return "folder"


def share_of(length: int, rank: int, processes: int, batch_size: int) -> Iterator[tuple[Sequence[int], int]]:
    """A process's batches of an evaluation, and how many of each count; every process gets as many batches.

    Where samples do not suffice for all, the first ones fill up and do not count.
    """
    rows = -(-length // processes)
    for start in range(0, rows, batch_size):
        indices = [row * processes + rank for row in range(start, min(start + batch_size, rows))]
        yield [index % length for index in indices], sum(index < length for index in indices)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
