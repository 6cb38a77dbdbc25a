"""Predictions on images, in their physical meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demt.data.images import ImageLike, read_image
from demt.inference.blend import argmax_at_size, blendable, certainty, class_confidence
from demt.inference.forward import finite_logits, in_eval_mode
from demt.inference.prediction import Prediction, make_prediction
from demt.inference.preprocess import fitted_size, prepare
from demt.inference.tiles import predict_tiled
from demt.inference.tta import TTA, Maps, Views, as_views, predict_averaged
from demt.models import MultiTaskModel
from demt.ops.resize import resize
from demt.tasks import Task

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
    tta: TTA | None = ...,
    confidence: bool = ...,
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
    tta: TTA | None = ...,
    confidence: bool = ...,
) -> list[Prediction]: ...
def predict(
    model: MultiTaskModel,
    image: ImageLike | Sequence[ImageLike],
    *,
    max_size: int | None = None,
    tile: int | tuple[int, int] | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    tta: TTA | None = None,
    confidence: bool = False,
) -> Prediction | list[Prediction]:
    """Predict every task of a model on one image or several.

    Args:
        model: The model, which is not changed: if modules of it are in training mode, a copy that shares its weights
            runs in eval mode. Several threads may predict with one model, also while it is trained.
        image: A path, PIL image, array or tensor (see `demt.data.images.read_image`), or a list or tuple of them.
        max_size: Longest side, in pixels, at which the network runs; larger images are shrunk for it and predictions
            resized back to the image. By default ``model.pretrained_cfg.max_size``, at which it was evaluated.
        tile: Side, or height and width, in pixels, of tiles in which the network runs over the whole image at its own
            size, instead of on a smaller one. Needs bounded memory whatever the size of the image.
        overlap: Pixels that neighbouring tiles share and are blended over; by default a quarter of the tile.
        batch_size: How many images of one size, or tiles of an image, run at once.
        tta: Average over views of an image: ``"flip"``, itself and its mirror image; factors of its size at the
            network, such as ``[0.75, 1, 1.25]``; or both, ``["flip", 0.75, 1, 1.25]``. Every view takes its time, and
            views of larger size their memory. Class maps, `sal` and `edge` are averaged as probabilities, normals as
            vectors, which a mirror turns; depth is multiplied by the factor, disparity (``"px"``) divided, as zooming
            in training has it; other values are averaged as they are. Not with `tile`.
        confidence: Give each task's confidence, too, as ``prediction.confidence[task]`` in [0, 1]: the probability of
            the class; of `sal`, `edge` and their like ``|2p - 1|``; with `tta`, of normals the length of the mean
            vector, and of depth ``1 / (1 + s)`` with the standard deviation s of the views, relative to their mean.
            Other tasks have none. Not with `tile`.

    Returns:
        Per task, in task order, an array at the image's size: class ids (H, W) for class maps, probabilities (H, W) in
        [0, 1] for `sal` and `edge`, depth (H, W) in the task's unit, unit normals (3, H, W) in
        the axes of the training data. That is a dict, and more: see `Prediction`. A list of them for several images.

    Raises:
        FileNotFoundError, ValueError: for an image that cannot be read or does not fit the model, or a model that gives
            NaN or infinite values.
    """
    tiles = check_options(model, max_size=max_size, tile=tile, overlap=overlap, batch_size=batch_size)
    views = None if tta is None else as_views(tta)
    if tiles is not None and (views is not None or confidence):
        raise ValueError("`tile` cannot be combined with `tta` or `confidence`: leave out one of them")
    max_size = max_size or model.pretrained_cfg.max_size
    model = in_eval_mode(model)
    images: Any = image if isinstance(image, (list, tuple)) else [image]
    if tiles is not None:
        found = [_predict_tiled(model, read_image(each), tiles, batch_size) for each in images]
    else:
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        found = [each for batch in batches for each in _predict_batch(model, batch, max_size, views, confidence)]
    return found if isinstance(image, (list, tuple)) else found[0]


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
            raise ValueError(f"`overlap` needs `tile`: give both, got overlap={overlap!r} only")
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


def _predict_tiled(model: MultiTaskModel, image: Tensor, tiles: Tiles, batch_size: int) -> Prediction:
    return make_prediction(model, image, predict_tiled(model, image, *tiles, batch_size))


def _predict_batch(
    model: MultiTaskModel, images: Sequence[ImageLike], max_size: int | None, views: Views | None, confident: bool
) -> list[Prediction]:
    """Images that run at one size run together."""
    values = [read_image(image) for image in images]
    sizes = [fitted_size(tuple(image.shape[-2:]), max_size) for image in values]
    results: dict[int, Prediction] = {}
    for size in dict.fromkeys(sizes):
        members = [i for i, each in enumerate(sizes) if each == size]
        group = [values[i] for i in members]
        if views is None:
            found = _predict_plain(model, group, max_size, confident)
        else:
            found = predict_averaged(model, group, views, max_size, confident)
        for i, (maps, sure) in zip(members, found):
            results[i] = make_prediction(model, values[i], maps, sure)
    return [results[i] for i in range(len(images))]


@torch.inference_mode()
def _predict_plain(
    model: MultiTaskModel, images: Sequence[Tensor], max_size: int | None, confident: bool
) -> list[tuple[Maps, Maps]]:
    logits = finite_logits(model, torch.cat([prepare(model, image, max_size) for image in images]))
    results = []
    for row, image in enumerate(images):
        rows = {name: all_rows[row : row + 1] for name, all_rows in logits.items()}
        maps = {name: at_size(model.tasks[name], each, tuple(image.shape[-2:])) for name, each in rows.items()}
        sure = {name: confidence_of(model.tasks[name], rows[name], maps[name]) for name in maps if confident}
        results.append((maps, {name: each for name, each in sure.items() if each is not None}))
    return results


def at_size(task: Task, logits: Tensor, size: tuple[int, ...]) -> NDArray[Any]:
    """A task's prediction at an image's size (H, W), from logits (1, C, h, w)."""
    if task.activation == "argmax":
        return argmax_at_size(logits, size)
    return task.predict(resize(logits.float(), size))[0].cpu().numpy()


def confidence_of(task: Task, logits: Tensor, prediction: NDArray[Any]) -> NDArray[np.float32] | None:
    """How sure a prediction is, from the logits (1, C, h, w) it was made of; None for what says nothing of it."""
    if task.activation == "argmax":
        return class_confidence(blendable(task, logits.clone()), prediction)
    sure = certainty(task, torch.from_numpy(prediction))
    return None if sure is None else sure.numpy()
