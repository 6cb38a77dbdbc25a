"""What the page shows of a photograph: pictures, values of a pixel, points in space, and all of it as a file."""

from __future__ import annotations

import dataclasses
import functools
import html
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from demt.data.files import open_picture
from demt.files import write_bytes
from demt.inference.explain import Explanation, Pixel, explain
from demt.inference.explain_pictures import cross, points_picture
from demt.inference.predict import predict
from demt.inference.prediction import Prediction
from demt.inference.save import DEFAULT_KINDS, KINDS, encode, is_deep
from demt.models import MultiTaskModel
from demt.tasks import Task
from demt.viz import legend, task_picture, title

#: Longest side, in pixels, of what is predicted and shown: larger photographs are shrunk to it, so that nobody's
#: photograph takes much memory, and results come soon.
LONGEST = 768


def read_photograph(name: str, contents: bytes, longest: int = LONGEST) -> Image.Image:
    """The picture in an uploaded file, turned upright, and shrunk where a side is longer than `longest` pixels.

    Args:
        name: Of the file, for errors.
        contents: What is in it.
        longest: Longest side, in pixels.

    Raises:
        DataError: if it is no picture, damaged, or too large; see `demt.data.files.open_picture`.
    """
    picture = open_picture(Path(name), contents)
    if max(picture.size) > longest:
        if picture.mode in ("1", "P"):
            # Pillow resizes others by their mean.
            picture = picture.convert("RGBA")
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a model says about a photograph.

    Args:
        image: The photograph.
        model: The model.
        prediction: Its prediction, with confidence.
    """

    image: Image.Image
    model: MultiTaskModel
    prediction: Prediction

    @classmethod
    def of(cls, model: MultiTaskModel, image: Image.Image) -> Result:
        """Predict. Raises what `demt.predict` raises."""
        return cls(image, model, predict(model, image, confidence=True))

    def of_tasks(self, tasks: Sequence[str]) -> Prediction:
        """The prediction of some tasks alone, in the order of the model's; unknown ones are left out."""
        whole = self.prediction
        chosen = [name for name in whole if name in tasks]
        return Prediction(
            {name: whole[name] for name in chosen},
            tasks=whole.tasks,
            image=whole.image,
            confidence={name: whole.confidence[name] for name in chosen if name in whole.confidence},
            note=whole.note,
        )

    @functools.cached_property
    def explanation(self) -> Explanation:
        """A look inside, for which the model runs once more. Raises `ValueError` for models without operators."""
        return explain(self.model, self.image)


def gallery(prediction: Prediction) -> list[tuple[Image.Image, str]]:
    """A picture of each task, with its title."""
    return [(_shown(task, prediction), title(task)) for task in prediction.tasks.values()]


def pair(prediction: Prediction, task: str) -> tuple[Image.Image, Image.Image]:
    """The photograph and the picture of a task, of one size."""
    return prediction.image, _shown(prediction.tasks[task], prediction)


def _shown(task: Task, prediction: Prediction) -> Image.Image:
    return task_picture(task, prediction[task.name]).convert("RGB")


def legend_html(prediction: Prediction, task: str) -> str:
    """The colours of a task's picture, and what they mean."""
    entries = []
    for colour, text in legend(prediction.tasks[task], prediction[task]):
        square = f"background:rgb{tuple(colour or (0, 0, 0))}".replace(" ", "")
        entries.append(
            '<span style="white-space:nowrap"><span style="display:inline-block;width:1em;height:1em;'
            f'vertical-align:-0.15em;border:1px solid #888;{square}"></span> {html.escape(text)}</span>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:0.3em 1em">{"".join(entries)}</div>'


def values_at(prediction: Prediction, pixel: Pixel) -> list[list[str]]:
    """A row for each task: its title, its value at a pixel (x, y), and how sure it is, where that is known.

    Raises:
        ValueError: for a pixel outside the photograph.
    """
    x, y = pixel
    width, height = prediction.image.size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"Expected a pixel (x, y) in a photograph of {width} x {height}, got {(x, y)}")
    rows = []
    for name, values in prediction.items():
        task, sure = prediction.tasks[name], prediction.confidence.get(name)
        at = values[..., y, x]
        if task.activation == "argmax":
            text = task.classes[int(at)] if task.classes else f"class {int(at)}"
        elif at.ndim:
            text = f"({', '.join(f'{value:.2f}' for value in at.tolist())})"
        else:
            text = f"{float(at):.3g}{f' {task.unit}' if task.unit else ''}"
        rows.append([title(task), text, "" if sure is None else f"{100 * float(sure[..., y, x].mean()):.0f} %"])
    return rows


def marked(image: Image.Image, pixel: Pixel) -> Image.Image:
    """A picture with a cross at a pixel (x, y)."""
    picture = image.copy()
    cross(ImageDraw.Draw(picture), pixel)
    return picture


def sample_points(result: Result, tasks: Sequence[str], pixel: Pixel) -> list[Image.Image]:
    """A picture for each task of where its deformable operator samples for a pixel; see `points_picture`.

    Raises:
        ValueError: for a model without such operators, or a pixel outside the photograph.
    """
    return [points_picture(result.explanation, pixel, [task], width=300) for task in tasks]


def depth_task(prediction: Prediction) -> str | None:
    """The first task of which points in space can be made: depth, in the unit of a length."""
    for name, values in prediction.items():
        task = prediction.tasks[name]
        if task.activation == "identity" and values.ndim == 2 and task.unit and task.unit != "px":
            return name
    return None


def save_points(prediction: Prediction, path: Path, fov: float) -> None:
    """Write the points of the depth task, as .glb or .ply, for a camera of this horizontal field of view in degrees.

    Raises:
        ValueError: if there is no depth, or `fov` is none.
        ImportError: if trimesh is missing.
    """
    if (depth := depth_task(prediction)) is None:
        raise ValueError("Points need a task of depth in metres or another unit of length: choose one")
    prediction.to_point_cloud(fov=fov, depth=depth).save(path)


def save_archive(prediction: Prediction, path: Path, fov: float) -> None:
    """Write all there is as one .zip: the photograph as it was predicted, panel, pictures, arrays, points.

    Raises:
        ValueError: if no task is chosen, or `fov` is none.
        ImportError: if there is depth, but trimesh is missing.
    """
    if not prediction:
        raise ValueError("There is nothing to download: choose a task")
    kinds = KINDS if any(map(is_deep, prediction.tasks.values())) else DEFAULT_KINDS
    files = encode(prediction.tasks, prediction, prediction.image, kinds, note=prediction.note)
    if (depth := depth_task(prediction)) is not None:
        points = prediction.to_point_cloud(fov=fov, depth=depth).to_trimesh()
        files["_points.ply"] = points.export(file_type="ply")
    buffer = io.BytesIO()
    prediction.image.save(buffer, format="PNG")
    files[".png"] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for ending, contents in files.items():
            archive.writestr(f"photograph{ending}", contents)
    write_bytes(path, buffer.getvalue())
