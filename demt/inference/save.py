"""Predictions as files: a picture per task, a panel, and the values."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from demt.data.images import read_image
from demt.files import write_whole
from demt.inference.predict import Prediction, predict
from demt.models import MultiTaskModel
from demt.viz import panel, task_picture


def save_predictions(
    model: MultiTaskModel,
    paths: Sequence[Path],
    folder: Path,
    *,
    max_size: int | None = None,
    tile: tuple[int, int] | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    note: str | None = None,
) -> Iterator[Path]:
    """Predict on image files and write, per image, ``STEM_TASK.png``, ``STEM_panel.png`` and ``STEM.npz``.

    Files that share a stem get ``_2``, ``_3``… in the order given. Yields the panel's path after each image.

    Raises:
        FileNotFoundError, ValueError: for an image that is missing or cannot be read; results before it stay.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"No image at {str(path)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    stems = _unique_stems(paths)
    for start in range(0, len(paths), batch_size):
        images = [read_image(path) for path in paths[start : start + batch_size]]
        predictions = predict(model, images, max_size=max_size, tile=tile, overlap=overlap, batch_size=batch_size)
        for stem, image, prediction in zip(stems[start:], images, predictions):
            yield _save(model, image, prediction, folder, stem, note)


def _save(
    model: MultiTaskModel, image: Tensor, prediction: Prediction, folder: Path, stem: str, note: str | None
) -> Path:
    picture = Image.fromarray(np.rint(255 * image.permute(1, 2, 0).numpy()).astype(np.uint8))
    for name, values in prediction.items():
        _save_picture(task_picture(model.tasks[name], values), folder / f"{stem}_{name}.png")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(prediction)
    np.savez_compressed(buffer, **arrays)
    write_whole(folder / f"{stem}.npz", lambda target: Path(target).write_bytes(buffer.getvalue()))
    overview = folder / f"{stem}_panel.png"
    _save_picture(panel(picture, prediction, model.tasks, note=note), overview)
    return overview


def _save_picture(picture: Image.Image, path: Path) -> None:
    write_whole(path, lambda target: picture.save(target, format="PNG"))


def _unique_stems(paths: Sequence[Path]) -> list[str]:
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, count = path.stem, 1
        while stem in taken:
            count += 1
            stem = f"{path.stem}_{count}"
        taken.add(stem)
        stems.append(stem)
    return stems
