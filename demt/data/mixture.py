"""Several data sets in one run, each with its share of every batch."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from demt.data.batch import Sample
from demt.data.dataset import MultiTaskDataset, as_multitask
from demt.tasks import Task


class Mixture(MultiTaskDataset):
    """Data sets one after the other, drawn by weight; each labels what it labels, and has its own transform.

    Its tasks are those of all sources. A batch is divided among the sources in proportion to their weights: exactly
    where that gives whole numbers, else by turns, at any moment about one sample from it. (Torch's
    ``ConcatDataset`` with a ``WeightedRandomSampler`` draws each sample by chance, with repetitions, so that batches
    have other shares and a run cannot go on in the middle.)

    Args:
        sources: Pairs of a data set and its weight, a positive number; weights need not add up to 1.
        tasks: Further tasks that belong to the set, of which no source has labels.

    Attributes:
        sources: The data sets.
        shares: Their weights, as the smallest whole numbers.

    Raises:
        ValueError: for weights that are not positive, or tasks of one name that are not the same.

    Example:
        >>> from demt.data import SyntheticRooms
        >>> depth, edges = (SyntheticRooms((24, 32), length=4, tasks=[task]) for task in ("depth", "edge"))
        >>> mixed = Mixture([(depth, 0.75), (edges, 0.25)])
        >>> list(mixed.tasks), mixed.shares, len(mixed)
        (['depth', 'edge'], [3, 1], 8)
        >>> sum(index < 4 for index in mixed.sampler(8))
        6
    """

    mixed = True

    def __init__(
        self, sources: Sequence[tuple[Dataset[Any], float]], *, tasks: Mapping[str, Task] | None = None
    ) -> None:
        if not sources or not all(isinstance(source, (tuple, list)) and len(source) == 2 for source in sources):
            raise ValueError(f"Expected `sources` as a list of pairs (data set, weight), got {sources!r}")
        weights = [weight for _, weight in sources]
        if not all(isinstance(w, (int, float)) and not isinstance(w, bool) and 0 < w < math.inf for w in weights):
            raise ValueError(f"Expected the weights of `sources` to be numbers above 0, got {weights}")
        self.sources = [as_multitask(source) for source, _ in sources]
        self.shares = _shares(weights)
        ids = [id for source in self.sources for id in source.ids]
        super().__init__(ids, _union([*(source.tasks for source in self.sources), dict(tasks or {})]))
        self._ends = list(itertools.accumulate(len(source) for source in self.sources))

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"No sample {index} in a data set of {len(self)}")
        source, place = self._place(index % len(self))
        return self.sources[source][place]

    def read(self, index: int) -> Sample:
        """The sample at `index`, before its source's transform. Raises `DataError`."""
        source, place = self._place(index)
        return self.sources[source].read(place)

    def labels_of(self, index: int) -> list[str]:
        """See `MultiTaskDataset.labels_of`."""
        source, place = self._place(index)
        return self.sources[source].labels_of(place)

    def sampler(self, draws: int, seed: int = 0) -> Sampler[int]:
        """For ``DataLoader(sampler=...)``: `draws` samples, of which each source has its share; see `draw_order`."""
        return _Sampler(self, draws, seed)

    def check_sizes(self) -> None:
        """Draw a sample of each source.

        Raises:
            ValueError: if their images differ in shape, so that they fit into no batch.
        """
        shapes = [tuple(source[0]["image"].shape) for source in self.sources]
        if len(set(shapes)) > 1:
            found = ", ".join(f"{shape} of {source!r}" for shape, source in zip(shapes, self.sources))
            raise ValueError(
                f"Expected all sources of a mixture to give images of the same shape, got {found}; end their "
                "transforms with a crop to one size (demt.data.transforms.train_transform(size=...)), or set "
                "`data.size` in a recipe"
            )

    def _place(self, index: int) -> tuple[int, int]:
        source = bisect.bisect_right(self._ends, index)
        return source, index - (self._ends[source - 1] if source else 0)

    def __repr__(self) -> str:
        total = sum(self.shares)
        parts = [f"{share / total:.0%} {source!r}" for share, source in zip(self.shares, self.sources)]
        return f"{type(self).__name__}({', '.join(parts)})"


class _Sampler(Sampler[int]):
    def __init__(self, dataset: Mixture, draws: int, seed: int) -> None:
        self.dataset, self.draws, self.seed = dataset, draws, seed

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        return draw_order(self.dataset, range(self.draws), self.seed)


def draw_order(dataset: MultiTaskDataset, positions: range, seed: int) -> Iterator[int]:
    """Which sample comes at each of these positions of a run, whatever was drawn before.

    The sources of a `Mixture` take turns (each gets credit in proportion to its weight, and the one with most credit
    pays for a draw). Of each source, as of any other data set, each epoch is a permutation that the seed and the epoch
    settle: no sample comes again before all have come.
    """
    sources = dataset.sources if isinstance(dataset, Mixture) else [dataset]
    shares = dataset.shares if isinstance(dataset, Mixture) else [1]
    turns = _turns(shares)
    numbers = [turns[:place].count(source) for place, source in enumerate(turns)]
    starts = [0, *itertools.accumulate(len(source) for source in sources)]
    orders: dict[int, tuple[int, Any]] = {}
    for position in positions:
        rounds, place = divmod(position, len(turns))
        source = turns[place]
        epoch, entry = divmod(rounds * shares[source] + numbers[place], len(sources[source]))
        if orders.get(source, (-1, None))[0] != epoch:
            key = (seed, epoch, source) if source else (seed, epoch)
            orders[source] = epoch, np.random.default_rng(key).permutation(len(sources[source]))
        yield starts[source] + int(orders[source][1][entry])


def epoch_length(dataset: MultiTaskDataset) -> int:
    """Draws until all samples have come: of a mixture, those of the source that takes longest."""
    if not isinstance(dataset, Mixture):
        return len(dataset)
    total = sum(dataset.shares)
    return max(-(-len(source) * total // share) for source, share in zip(dataset.sources, dataset.shares))


def _shares(weights: Sequence[float]) -> list[int]:
    """Weights as small whole numbers: thirds stay thirds, whatever is no simple fraction is rounded."""
    exact = [Fraction(weight).limit_denominator(1000) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    if min(whole) < 1 or sum(whole) > 5000:
        whole = [max(round(5000 * (weight / sum(weights))), 1) for weight in weights]
    return [weight // math.gcd(*whole) for weight in whole]


def _turns(shares: Sequence[int]) -> list[int]:
    credit, turns = np.zeros(len(shares), int), []
    for _ in range(sum(shares)):
        credit += shares
        turns.append(int(credit.argmax()))
        credit[turns[-1]] -= sum(shares)
    return turns


def _union(all_tasks: Sequence[Mapping[str, Task]]) -> dict[str, Task]:
    union: dict[str, Task] = {}
    for tasks in all_tasks:
        for name, task in tasks.items():
            known = union.setdefault(name, task)
            same = (known.channels, known.activation, known.unit) == (task.channels, task.activation, task.unit)
            if not same or (known.classes and task.classes and known.classes != task.classes):
                raise ValueError(
                    f"Two sources have different tasks named {name!r}: {known.channels} and {task.channels} "
                    "channels, or different classes, activations or units; make them the same, or rename one of them"
                )
            if task.classes and not known.classes:
                union[name] = task
    return union
