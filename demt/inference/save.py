"""Predictions as files: a picture per task, a panel, the values, and 16-bit pictures to measure in.

Every file says that it was written here and by which call, so that no other file is ever replaced, and a call that is
repeated knows what is there already.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from demt.data.png16 import encode_colours
from demt.files import write_bytes
from demt.inference.prediction import Prediction
from demt.tasks import Task
from demt.viz import panel, task_picture

#: What can be saved of a picture's predictions; the first three are by default.
KINDS = ("panel", "pictures", "arrays", "png16")
DEFAULT_KINDS = KINDS[:3]
#: What files written here say of themselves.
MARK = "demt predict"


def endings(tasks: Mapping[str, Task], kinds: Collection[str]) -> list[str]:
    """What the names of a picture's files end with, behind its own name.

    Args:
        tasks: Tasks that are saved.
        kinds: Of `KINDS`: ``"panel"`` gives ``_panel.png`` (beside a task of that name ``_all_panel.png``),
            ``"pictures"`` ``_TASK.png``, ``"arrays"`` ``.npz``, ``"png16"`` ``_TASK.16bit.png`` of normals and of
            values in metres.

    Raises:
        ValueError: for another kind, none, or "png16" where no task has such pictures.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"Expected `save` to be of {', '.join(KINDS)}, got {unknown[0]!r}")
    if not kinds:
        raise ValueError(f"`save` names nothing to save; expected some of {', '.join(KINDS)}")
    deep = [f"_{name}.16bit.png" for name, task in tasks.items() if is_deep(task)]
    if "png16" in kinds and not deep:
        raise ValueError(f"`save` asks for png16, pictures of normals and of metres; the tasks are {list(tasks)}")
    found: list[str] = [panel_ending(tasks)] * ("panel" in kinds) + [".npz"] * ("arrays" in kinds)
    return found + [f"_{name}.png" for name in tasks] * ("pictures" in kinds) + deep * ("png16" in kinds)


def panel_ending(tasks: Iterable[str]) -> str:
    """What the name of the panel ends with."""
    return "_all_panel.png" if "panel" in tasks else "_panel.png"


def encode(
    tasks: Mapping[str, Task],
    prediction: Mapping[str, NDArray[Any]],
    image: Image.Image | None,
    kinds: Collection[str],
    *,
    digest: str = "",
    note: str | None = None,
) -> dict[str, bytes]:
    """Contents of a picture's files by ending, see `endings`.

    Args:
        tasks: Tasks that are saved.
        prediction: Their predictions, as `demt.predict` gives them.
        image: The picture, for the panel; as large as `demt.viz.fitted_image` makes it, or larger.
        kinds: See `endings`.
        digest: What `mark_of` finds in each of the files.
        note: A line on the panel.
    """
    files: dict[str, bytes] = {}
    if "panel" in kinds:
        assert image is not None
        files[panel_ending(tasks)] = _png(panel(image, prediction, tasks, note=note), digest)
    if "arrays" in kinds:
        files[".npz"] = _npz(prediction, digest)
    for name, task in tasks.items():
        if "pictures" in kinds:
            files[f"_{name}.png"] = _png(task_picture(task, prediction[name]), digest)
        if "png16" in kinds and is_deep(task):
            values = deep_values(task, prediction[name])
            grey = values.ndim == 2
            files[f"_{name}.16bit.png"] = (
                _png(Image.fromarray(values), digest) if grey else encode_colours(values, _about(digest))
            )
    return files


def mark_of(file: Path | IO[bytes]) -> str | None:
    """Which call wrote a file: the `digest` that it was encoded with; None for a file of anyone else."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            return str(picture.info.get(MARK, "")) if picture.info.get("Software") == MARK else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass
    try:
        with zipfile.ZipFile(file) as archive:
            comment = archive.comment.decode("latin1")
            return comment.removeprefix(MARK).strip() if comment.startswith(MARK) else None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def check_free(folder: Path, stems: Iterable[str], tasks: Mapping[str, Task]) -> None:
    """Raise `FileExistsError` where a result would replace a file that `demt predict` did not write."""
    for target in (folder / f"{stem}{ending}" for stem in stems for ending in endings(tasks, DEFAULT_KINDS)):
        if target.exists() and mark_of(target) is None:
            raise not_ours(target)


def not_ours(target: Path) -> FileExistsError:
    """The error of a result that would replace a file of someone else."""
    return FileExistsError(
        f"{str(target)!r} would be replaced, but is no file of `demt predict`; choose another folder"
    )


def save_prediction(prediction: Prediction, folder: Path, stem: str, *, note: str | None = None) -> Path:
    """Write the files of one image, without a look at what they replace; gives the panel's path."""
    folder.mkdir(parents=True, exist_ok=True)
    files = encode(prediction.tasks, prediction, prediction.image, DEFAULT_KINDS, note=note or prediction.note)
    for ending, contents in files.items():
        write_bytes(folder / f"{stem}{ending}", contents)
    return folder / f"{stem}{panel_ending(prediction)}"


def deep_values(task: Task, prediction: NDArray[Any]) -> NDArray[np.uint16]:
    """Normals or metres as 16-bit numbers, (H, W, 3) or (H, W).

    Metres become millimetres, rounded; 0 stands for what is no positive depth or more than 65.535 m. Components of
    normals become (n + 1) · 32767.5, rounded. `demt.data.MultiTaskFolder` reads them as ``"millimetres"`` and
    ``"rgb_normals_16"``.
    """
    if task.activation == "unit":
        return np.rint((prediction.transpose(1, 2, 0).astype(np.float64) + 1) * 32767.5).astype(np.uint16)
    millimetres = np.rint(prediction.astype(np.float64) * 1000)
    return np.where((millimetres > 0) & (millimetres < 2**16), millimetres, 0).astype(np.uint16)


def is_deep(task: Task) -> bool:
    """Whether a task has 16-bit pictures."""
    metres = task.activation == "identity" and task.channels == 1 and task.unit == "m"
    return metres or (task.activation == "unit" and task.channels == 3)


def _about(digest: str) -> dict[str, str]:
    return {"Software": MARK, MARK: digest}


def _png(picture: Image.Image, digest: str) -> bytes:
    about, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in _about(digest).items():
        about.add_text(key, text)
    picture.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()


def _npz(prediction: Mapping[str, NDArray[Any]], digest: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        # As np.savez_compressed, for tasks that have the name of one of its arguments, too.
        for name, values in prediction.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
        archive.comment = f"{MARK} {digest}".strip().encode()
    return buffer.getvalue()
