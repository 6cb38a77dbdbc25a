"""Predictions on images, in their physical meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.data.images import ImageLike, read_image
from demt.inference.forward import finite_logits, in_eval_mode
from demt.inference.preprocess import prepare
from demt.inference.tiles import predict_tiled
from demt.models import MultiTaskModel
from demt.ops.resize import resize
from demt.tasks import Task

Prediction: TypeAlias = "dict[str, NDArray[Any]]"
Tiles: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


@overload
def predict(  # type: ignore[overload-overlap]
    model: MultiTaskModel,
    image: ImageLike,
    *,
    max_size: int | None = ...,
    tile: int | tuple[int, int] | None = ...,
    overlap: int | None = ...,
    batch_size: int = ...,
) -> Prediction: ...
@overload
def predict(
    model: MultiTaskModel,
    image: Sequence[ImageLike],
    *,
    max_size: int | None = ...,
    tile: int | tuple[int, int] | None = ...,
    overlap: int | None = ...,
    batch_size: int = ...,
) -> list[Prediction]: ...
def predict(
    model: MultiTaskModel,
    image: ImageLike | Sequence[ImageLike],
    *,
    max_size: int | None = None,
    tile: int | tuple[int, int] | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
) -> Prediction | list[Prediction]:
    """Predict every task of a model on one image or several.

    Args:
        model: The model, left as it is: where modules of it are in training mode, a copy that shares its weights runs
            in eval mode. Several threads may predict with one model, also while it is trained.
        image: A path, PIL image, array or tensor (see `demt.data.images.read_image`), or a list or tuple of them.
        max_size: Longest side, in pixels, at which the network runs; larger images are shrunk for it and predictions
            brought back to the image's size. By default ``model.pretrained_cfg.max_size``, at which it was evaluated.
        tile: Side, or height and width, in pixels, of tiles in which the network runs over the whole image at its own
            size, instead of on a smaller one. Needs bounded memory whatever the size of the image.
        overlap: Pixels that neighbouring tiles share and are blended over; by default a quarter of the tile.
        batch_size: How many images of one size, or tiles of an image, run at once.

    Returns:
        Per task, in task order, an array at the image's size: class ids (H, W) for class maps, probabilities (H, W) in
        [0, 1] for `sal` and `edge`, depth (H, W) in the task's unit, unit normals (3, H, W) in
        the axes of the training data. A list of such dicts for several images.

    Raises:
        FileNotFoundError, ValueError: for an image that cannot be read or does not fit the model, or a model that gives
            NaN or infinite values.
    """
    tiles = check_options(model, max_size=max_size, tile=tile, overlap=overlap, batch_size=batch_size)
    max_size = max_size or model.pretrained_cfg.max_size
    if isinstance(image, (list, tuple)):
        return list(_predict_many(model, image, max_size, tiles, batch_size))
    return next(_predict_many(model, [image], max_size, tiles, batch_size))  # type: ignore[list-item]


def check_options(
    model: MultiTaskModel,
    *,
    max_size: int | None,
    tile: int | tuple[int, int] | None,
    overlap: int | None,
    batch_size: int,
) -> Tiles | None:
    """Check arguments of `predict`; tiles' height and width, and the two overlaps, if there are tiles.

    Raises:
        ValueError: naming the argument that is wrong.
    """
    if not isinstance(model, MultiTaskModel):
        raise ValueError(f"Expected `model` to be a demt model, got {type(model).__name__}; see demt.create_model")
    for name, value in {"max_size": max_size, "batch_size": batch_size}.items():
        if value is not None and not _is_count(value):
            raise ValueError(f"Expected `{name}` to be an integer >= 1, got {value!r}")
    return _tiles(tile, overlap, max_size)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _tiles(tile: int | tuple[int, int] | None, overlap: int | None, max_size: int | None) -> Tiles | None:
    """Tiles' height and width, and the two overlaps."""
    if tile is None:
        if overlap is not None:
            raise ValueError(f"`overlap` is that of tiles: give `tile` too, got overlap={overlap!r} alone")
        return None
    if max_size is not None:
        raise ValueError(f"With `tile` the network runs at the image's own size: leave out max_size={max_size!r}")
    sides = tile if isinstance(tile, (tuple, list)) else (tile, tile)
    if len(sides) != 2 or not all(map(_is_count, sides)):
        raise ValueError(f"Expected `tile` to be an integer >= 1 or (height, width), got {tile!r}")
    height, width = sides
    if overlap is None:
        return (height, width), (height // 4, width // 4)
    if not (_is_count(overlap, least=0) and overlap < min(sides)):
        raise ValueError(f"Expected `overlap` to be an integer from 0 to less than the tile, got {overlap!r}")
    return (height, width), (overlap, overlap)


def _predict_many(
    model: MultiTaskModel, images: Sequence[ImageLike], max_size: int | None, tiles: Tiles | None, batch_size: int
) -> Iterator[Prediction]:
    model = in_eval_mode(model)
    if tiles is not None:
        for image in images:
            yield predict_tiled(model, read_image(image), *tiles, batch_size)
        return
    for start in range(0, len(images), batch_size):
        yield from _predict_batch(model, images[start : start + batch_size], max_size)


def _predict_batch(model: MultiTaskModel, images: Sequence[ImageLike], max_size: int | None) -> list[Prediction]:
    """Images that come out of preprocessing at one size run together."""
    values = [read_image(image) for image in images]
    inputs = [prepare(model, value, max_size) for value in values]
    results: dict[int, Prediction] = {}
    for size in dict.fromkeys(x.shape for x in inputs):
        members = [i for i, x in enumerate(inputs) if x.shape == size]
        with torch.inference_mode():
            logits = finite_logits(model, torch.cat([inputs[i] for i in members]))
        for row, i in enumerate(members):
            shape = tuple(values[i].shape[-2:])
            results[i] = {name: at_size(model.tasks[name], maps[row : row + 1], shape) for name, maps in logits.items()}
    return [results[i] for i in range(len(images))]


def at_size(task: Task, logits: Tensor, size: tuple[int, ...]) -> NDArray[Any]:
    """A task's prediction at an image's size (H, W), from logits (1, C, h, w)."""
    if task.activation == "argmax":
        ids = _argmax_at_size(logits, size).cpu().numpy()
        return ids.astype(np.uint8 if task.channels <= 256 else np.uint16)
    return task.predict(resize(logits.float(), size))[0].cpu().numpy()


def _argmax_at_size(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Class of the largest upsampled logit, one class at a time: logits of all classes at full size may not fit."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits.argmax(1)[0]
    best = resize(logits[:, :1].float(), size)[0, 0]
    ids = torch.zeros(best.shape, dtype=torch.int32, device=best.device)
    for index in range(1, logits.shape[1]):
        score = resize(logits[:, index : index + 1].float(), size)[0, 0]
        ids[score > best] = index
        best = torch.maximum(best, score)
    return ids
