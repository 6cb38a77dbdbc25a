"""Predictions on a stream of pictures: threads take batches of one size, and read, run and finish them.

Which pictures run together depends on the pictures alone, never on time: repeated, a run gives the same bits.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from demt.inference.forward import autocast, finite_logits, in_eval_mode
from demt.inference.predict import Tiles, at_size
from demt.inference.prediction import as_picture
from demt.inference.preprocess import fitted_size, prepare
from demt.inference.processes import cores
from demt.inference.tiles import predict_tiled
from demt.models import MultiTaskModel
from demt.viz import fitted_image

Item = TypeVar("Item")
Result = TypeVar("Result")
#: By task, logits (1, C, h, w) of a picture, or with tiles its predictions.
Maps: TypeAlias = "Mapping[str, Tensor] | Mapping[str, NDArray[Any]]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model runs on pictures; see `demt.inference.folder.predict_folder`."""

    tasks: tuple[str, ...]
    max_size: int | None
    tiles: Tiles | None
    batch_size: int
    precision: str
    threads: int
    with_panel: bool

    @property
    def pictures(self) -> int:
        """How many pictures run at once; of tiles one, as these are for large pictures."""
        return 1 if self.tiles else self.batch_size


@dataclasses.dataclass(frozen=True)
class Read:
    """A picture as the network takes it, and what has to be known of the picture itself.

    Attributes:
        input: (1, C, h, w), or with tiles the image as it is, (C, H, W).
        size: The picture's height and width.
        shown: The picture as large as a panel shows it, if there is to be one.
    """

    input: Tensor
    size: tuple[int, int]
    shown: Image.Image | None


def as_read(model: MultiTaskModel, image: Tensor, settings: Settings) -> Read:
    """An image of `demt.data.images.read_image`, prepared for the network."""
    shown = fitted_image(as_picture(image)) if settings.with_panel else None
    values = image if settings.tiles else prepare(model, image, settings.max_size)
    return Read(values, (image.shape[1], image.shape[2]), shown)


def of_one_size(
    items: Sequence[Item], size_of: Callable[[Item], tuple[int, int] | None], settings: Settings
) -> Iterator[list[Item]]:
    """Batches of pictures of one size, as far as their headers tell."""
    groups: dict[tuple[int, int] | None, list[Item]] = {}
    for item in items:
        size = size_of(item)
        groups.setdefault(size and fitted_size(size, settings.max_size), []).append(item)
    for group in groups.values():
        for start in range(0, len(group), settings.pictures):
            yield group[start : start + settings.pictures]


def predict_stream(
    model: MultiTaskModel,
    batches: Iterable[Sequence[Item]],
    read: Callable[[Item], Read],
    finish: Callable[[Item, Read, Mapping[str, NDArray[Any]]], Result],
    settings: Settings,
    *,
    wanted: Callable[[Item], bool] = lambda _: True,
) -> Iterator[tuple[Item, Result | Exception | None]]:
    """Predict on batches of pictures; a thread takes one from reading to the end.

    Args:
        model: Any; where it is in training mode, a copy runs.
        batches: Which pictures run together, those of them that have one size.
        read: Reads one, in a thread; a `ValueError` or `OSError` is that of the picture.
        finish: Takes a picture and its predictions, in a thread; its errors end the run.
        settings: How to run.
        wanted: Whether a picture needs predictions; one that needs none runs beside those that do, for their bits.

    Yields:
        Each picture, with what `finish` gives, the error of reading it or predicting on it, or None if not wanted.
    """
    network = in_eval_mode(model)
    running, stopped = threading.Semaphore(_models_at_once(model, settings)), threading.Event()

    def work(batch: Sequence[Item]) -> list[tuple[Item, Result | Exception | None]]:
        results: list[tuple[Item, Result | Exception | None]] = []
        pictures: list[tuple[Item, Read]] = []
        for item in batch:
            if stopped.is_set():
                return []
            try:
                pictures.append((item, read(item)))
            except (ValueError, OSError) as error:
                results.append((item, error))
        if not any(wanted(item) for item, _ in pictures):
            return results + [(item, None) for item, _ in pictures]
        with running:
            found = _run(network, [picture for _, picture in pictures], settings)
        for (item, picture), maps in zip(pictures, found):
            if stopped.is_set():
                return []
            if isinstance(maps, Exception):
                results.append((item, maps))
            elif wanted(item):
                prediction = {name: _at_size(network, name, maps[name], picture.size) for name in settings.tasks}
                results.append((item, finish(item, picture, prediction)))
            else:
                results.append((item, None))
        return results

    # Of large images, which tiles are for, memory holds as few as can be.
    pool = ThreadPoolExecutor(min(settings.threads, 2) if settings.tiles else settings.threads)
    waiting: deque[Future[list[tuple[Item, Result | Exception | None]]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) > settings.threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _models_at_once(model: MultiTaskModel, settings: Settings) -> int:
    """How many threads may run the model: as many as find cores, each taking those that torch is set to use."""
    if next(model.parameters()).device.type != "cpu":
        return 1
    return max(min(settings.threads, cores() // torch.get_num_threads()), 1)


def _run(model: MultiTaskModel, pictures: Sequence[Read], settings: Settings) -> list[Maps | Exception]:
    """What the model gives for pictures; where several fail together, each runs alone to find out which it is."""
    found: list[Maps | Exception] = [{}] * len(pictures)
    # The size that a file's header says may be wrong.
    for shape in dict.fromkeys(picture.input.shape for picture in pictures):
        members = [place for place, picture in enumerate(pictures) if picture.input.shape == shape]
        groups = [[place] for place in members] if settings.tiles else [members]
        while groups:
            group = groups.pop(0)
            try:
                outputs = _forward(model, [pictures[place].input for place in group], settings)
            except ValueError as error:
                if len(group) > 1:
                    groups += [[place] for place in group]
                else:
                    found[group[0]] = error
                continue
            for place, maps in zip(group, outputs):
                found[place] = maps
    return found


def _forward(model: MultiTaskModel, inputs: list[Tensor], settings: Settings) -> list[Maps]:
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast(device, settings.precision):
        if settings.tiles:
            return [predict_tiled(model, image, *settings.tiles, settings.batch_size) for image in inputs]
        logits = finite_logits(model, torch.cat(inputs))
    return [{name: logits[name][row : row + 1] for name in settings.tasks} for row in range(len(inputs))]


def _at_size(model: MultiTaskModel, name: str, values: Tensor | NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return at_size(model.tasks[name], values, size) if isinstance(values, Tensor) else values
