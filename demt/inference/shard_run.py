"""Predictions on a shard of WebDataset, as a shard of the same name that is there when all its pictures are in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from demt.data.files import picture_size
from demt.data.images import read_image_bytes
from demt.files import write_whole
from demt.inference.pictures import Picture, Saved
from demt.inference.results import Results
from demt.inference.shards import Sample, ShardError, read_shard, shard_writer, windows_of
from demt.inference.stream import Read, Settings, as_read, of_one_size, predict_stream
from demt.models import MultiTaskModel


def predict_shard(
    model: MultiTaskModel, shard: Picture, results: Results, settings: Settings, staging: Path
) -> list[Saved]:
    """What became of the pictures of a shard; after an error of the shard there is no file.

    Args:
        model: Any.
        shard: The shard.
        results: Where its results go.
        settings: How the model runs.
        staging: Folder for the file on its way.
    """
    if not shard.path.is_file():
        return [Saved(shard, (), FileNotFoundError(f"No shard at {str(shard.path)!r}"))]
    (target,) = results.files(shard)
    target.parent.mkdir(parents=True, exist_ok=True)
    saved: list[Saved] = []
    try:
        write_whole(target, partial(_write, model, shard, results, settings, saved), within=staging)
    except ShardError as error:
        # There is no file then, also of pictures before the error.
        return [*(each for each in saved if each.error), Saved(shard, (), error)]
    return saved


def _write(
    model: MultiTaskModel, shard: Picture, results: Results, settings: Settings, saved: list[Saved], path: str
) -> None:
    digest = results.digest(shard)

    def read(sample: Sample) -> Read:
        return as_read(model, read_image_bytes(sample.contents, sample.path), settings)

    def finish(sample: Sample, read: Read, prediction: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
        return results.encode(digest, read, prediction)

    with shard_writer(path) as write:
        batches = (
            batch
            for window in windows_of(read_shard(shard.path))
            for batch in of_one_size(window, lambda sample: picture_size(sample.path, sample.contents), settings)
        )
        for sample, result in predict_stream(model, batches, read, finish, settings):
            picture = Picture(sample.path, sample.key)
            if isinstance(result, dict):
                write(sample.key, result)
                saved.append(Saved(picture, results.files(shard)))
            elif result is not None:
                saved.append(Saved(picture, (), result))
    if all(each.error for each in saved):
        raise ShardError(f"{str(shard.path)!r} has no picture that can be read")
