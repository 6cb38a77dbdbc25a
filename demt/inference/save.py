"""Predictions as files: a picture per task, a panel, and the values."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from demt.data.images import read_image
from demt.files import write_whole
from demt.inference.predict import Prediction, predict
from demt.models import MultiTaskModel
from demt.viz import panel, task_picture

#: Stands in every file written here, so that no other file is ever replaced.
MARK = "demt predict"


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
) -> Iterator[tuple[Path, Path | Exception]]:
    """Predict on image files and write, per image, ``STEM_TASK.png``, ``STEM_panel.png`` and ``STEM.npz``.

    (The panel of a model with a task ``"panel"`` is ``STEM_all_panel.png``.)
    Files that share a stem get ``_2``, ``_3``… in the order given. Files of an earlier call are replaced.

    Yields:
        Each image, with the panel's path, or with the error of an image that cannot be read or predicted on.

    Raises:
        FileExistsError: if another file, or a second result, has the name of a result; nothing is written then.
        OSError: if a result cannot be written.
    """
    stems = _unique_stems(paths)
    endings = [*(f"_{task}.png" for task in model.tasks), _panel_ending(model), ".npz"]
    targets = [folder / f"{stem}{ending}" for stem in stems for ending in endings]
    if len(set(targets)) < len(targets):
        twice = next(target for number, target in enumerate(targets) if target in targets[:number])
        raise FileExistsError(f"{str(twice)!r} would be the result of two images: predict on them one after the other")
    for target in targets:
        if target.exists() and not _is_ours(target):
            raise FileExistsError(
                f"{str(target)!r} would be replaced, but is no file of `demt predict`; choose another folder"
            )
    run = partial(predict, model, max_size=max_size, tile=tile, overlap=overlap, batch_size=batch_size)
    for start in range(0, len(paths), batch_size):
        for place, result in enumerate(_predict_files(run, paths[start : start + batch_size]), start):
            if isinstance(result, Exception):
                yield paths[place], result
                continue
            folder.mkdir(parents=True, exist_ok=True)
            yield paths[place], _save(model, *result, folder, stems[place], note)


def _panel_ending(model: MultiTaskModel) -> str:
    name = "panel"
    while name in model.tasks:
        name = f"all_{name}"
    return f"_{name}.png"


def _predict_files(run: Any, paths: Sequence[Path]) -> list[tuple[Tensor, Prediction] | Exception]:
    """Images and their predictions; an error in the place of what is broken, and of nothing else."""
    results: dict[int, Any] = {}
    images: dict[int, Tensor] = {}
    for place, path in enumerate(paths):
        try:
            images[place] = read_image(path)
        except (ValueError, OSError) as error:
            results[place] = error
    try:
        results |= zip(images, zip(images.values(), run(list(images.values()))))
    except ValueError:
        for place, image in images.items():
            try:
                results[place] = image, run(image)
            except ValueError as error:
                results[place] = error
    return [results[place] for place in range(len(paths))]


def _save(
    model: MultiTaskModel, image: Tensor, prediction: Prediction, folder: Path, stem: str, note: str | None
) -> Path:
    picture = Image.fromarray(np.rint(255 * image.permute(1, 2, 0).numpy()).astype(np.uint8))
    for name, values in prediction.items():
        _save_picture(task_picture(model.tasks[name], values), folder / f"{stem}_{name}.png")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # As np.savez_compressed, for tasks that have the name of one of its arguments, too.
        for name, values in prediction.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
        archive.comment = MARK.encode()
    write_whole(folder / f"{stem}.npz", lambda target: Path(target).write_bytes(buffer.getvalue()))
    overview = folder / f"{stem}{_panel_ending(model)}"
    _save_picture(panel(picture, prediction, model.tasks, note=note), overview)
    return overview


def _save_picture(picture: Image.Image, path: Path) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", MARK)
    write_whole(path, lambda target: picture.save(target, format="PNG", pnginfo=about))


def _is_ours(path: Path) -> bool:
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return archive.comment == MARK.encode()
        with Image.open(path, formats=["PNG"]) as picture:
            return bool(picture.info.get("Software") == MARK)
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile):
        return False


def _unique_stems(paths: Sequence[Path]) -> list[str]:
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, count = path.stem, 1
        # Some file systems do not tell A from a.
        while stem.casefold() in taken:
            count += 1
            stem = f"{path.stem}_{count}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
