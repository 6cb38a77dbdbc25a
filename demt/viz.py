"""Pictures of predictions: one per task, and a panel of all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demt.classes import voc_palette
from demt.tasks import Task

TITLES = {
    "semseg": "Semantic segmentation",
    "human_parts": "Human parts",
    "sal": "Saliency",
    "normals": "Surface normals",
    "depth": "Depth",
    "edge": "Boundaries",
}
#: Seven points of a dark-to-bright colour map that stays ordered in grey and for colour-blind readers.
RAMP = np.array(
    [(0, 0, 4), (51, 16, 104), (114, 31, 129), (183, 55, 121), (241, 96, 93), (254, 175, 119), (252, 253, 191)], float
)
Legend = list[tuple[tuple[int, int, int] | None, str]]
_INK, _PAPER, _MUTED = (30, 30, 30), (255, 255, 255), (110, 110, 110)


def task_picture(task: Task, prediction: NDArray[Any], *, limits: tuple[float, float] | None = None) -> Image.Image:
    """One task's prediction as a picture.

    Class maps become palette images whose pixel values are the class ids (RGB above 256 classes); normals are coded as
    (n + 1) / 2; probabilities as grey; other values from the smallest (dark) to the largest (bright), or from the first
    of `limits` to the second.
    """
    if task.activation == "argmax":
        palette = np.array(task.palette or voc_palette(task.channels), np.uint8)
        if len(palette) > 256:
            return Image.fromarray(palette[prediction])
        picture = Image.fromarray(prediction.astype(np.uint8))
        picture.putpalette(palette.tobytes())
        return picture
    if task.activation in ("sigmoid", "foreground") and prediction.ndim == 2:
        return Image.fromarray(np.rint(255 * prediction).astype(np.uint8))
    if task.activation == "unit" and task.channels == 3:
        return Image.fromarray(np.rint(255 * (prediction.transpose(1, 2, 0) + 1) / 2).astype(np.uint8))
    values = prediction if prediction.ndim == 2 else prediction.mean(0)
    return Image.fromarray(_ramp(values, *(limits or (float(values.min()), float(values.max())))))


def _ramp(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    position = (values - low) / (high - low if high > low else 1.0) * (len(RAMP) - 1)
    colours = [np.interp(position, np.arange(len(RAMP)), RAMP[:, c]) for c in range(3)]
    return np.rint(np.stack(colours, -1)).astype(np.uint8)


def fitted_image(image: Image.Image, cell_width: int = 420) -> Image.Image:
    """The image as large as `panel` shows it, which draws the same of it as of the image."""
    return _fitted(image.convert("RGB"), (cell_width, max(round(image.height * cell_width / image.width), 1)))


def panel(
    image: Image.Image,
    prediction: Mapping[str, NDArray[Any]],
    tasks: Mapping[str, Task],
    *,
    labels: Mapping[str, NDArray[Any]] | None = None,
    note: str | None = None,
    cell_width: int = 420,
) -> Image.Image:
    """The image and all predictions with titles and legends, for people to look at.

    Args:
        image: The image.
        prediction: Predictions by task, as `demt.predict` gives them, of one size.
        tasks: Tasks by name.
        labels: Labels by task, (C, H, W) or (H, W), of the image's size: each is drawn to the right of its prediction,
            in the same colours, hatched where a pixel has no label.
        note: A line above.
        cell_width: Width of the picture of a task, in pixels.
    """
    shown_image = fitted_image(image, cell_width)
    size = shown_image.size
    cells: list[tuple[str, Image.Image, Legend]] = [("Image", shown_image, [])]
    for name, values in prediction.items():
        task, name_of_cell, void = tasks[name], title(tasks[name]), None
        if labels and name in labels:
            label, labelled = filled(task, labels[name])
            # One map of both: the colours of a range are those of their common range.
            values = np.concatenate([values, label.astype(values.dtype)], axis=-1)
            name_of_cell, void = f"{name_of_cell}: predicted, labelled", ~labelled
        picture = task_picture(task, values)
        halves = [picture] if void is None else [picture.crop(box) for box in _halves(picture)]
        shown = [_fitted(half, size) for half in halves]
        if void is not None:
            mask = Image.fromarray(void).resize(size, Image.Resampling.NEAREST)
            shown[1] = Image.fromarray(hatched(np.array(shown[1]), np.array(mask)))
        cells.append((name_of_cell, _beside(shown), legend(task, values)))
    cell_width *= 2 if labels else 1
    size = (cell_width, size[1])
    columns = 2 if labels else _columns(len(cells))
    gap, heading, rows = 16, 30, math.ceil(len(cells) / columns)
    legend_height = 44
    top = gap + (34 if note else 0)
    canvas = Image.new(
        "RGB", (gap + columns * (cell_width + gap), top + rows * (heading + size[1] + legend_height + gap)), _PAPER
    )
    draw = ImageDraw.Draw(canvas)
    if note:
        draw.text((gap, gap), note, fill=_MUTED, font=ImageFont.load_default(17))
    for index, (heading_text, picture, entries) in enumerate(cells):
        x = gap + index % columns * (cell_width + gap)
        y = top + index // columns * (heading + size[1] + legend_height + gap)
        draw.text((x, y + 4), heading_text, fill=_INK, font=ImageFont.load_default(17))
        canvas.paste(picture, (x, y + heading))
        _draw_legend(draw, entries, x, y + heading + size[1] + 5, cell_width)
    return canvas


def _columns(count: int) -> int:
    """Columns of a panel: three or four, whichever leaves fewer cells of the last row empty."""
    return {1: 1, 2: 2, 4: 2}.get(count) or min((4, 3), key=lambda columns: -count % columns)


def filled(task: Task, label: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A label map (C, H, W) or (H, W) in the form of a prediction, and which of its pixels (H, W) have a label.

    The others get a value that a labelled pixel has, so that the range of colours stays as it is.
    """
    maps = label if label.ndim == 3 else label[None]
    labelled: NDArray[np.bool_] = (maps != task.ignore_index).all(0)
    if task.activation == "unit":
        labelled &= (maps != 0).any(0)
    values = np.where(labelled, maps, maps[:, labelled][:, :1, None] if labelled.any() else 0)
    return (values[0] if len(values) == 1 else values), labelled


def hatched(pixels: NDArray[np.uint8], void: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) with diagonal grey lines where `void` (H, W): there is no label."""
    rows, columns = np.mgrid[: void.shape[0], : void.shape[1]]
    lines = np.where((rows + columns) % 8 < 2, np.uint8(150), np.uint8(225))
    return np.where(void[:, :, None], lines[:, :, None], pixels)


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    resample = Image.Resampling.NEAREST if picture.mode == "P" else Image.Resampling.LANCZOS
    return picture.resize(size, resample).convert("RGB")


def _halves(picture: Image.Image) -> list[tuple[int, int, int, int]]:
    middle = picture.width // 2
    return [(0, 0, middle, picture.height), (middle, 0, picture.width, picture.height)]


def _beside(pictures: list[Image.Image]) -> Image.Image:
    both = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    for index, picture in enumerate(pictures):
        both.paste(picture, (index * pictures[0].width, 0))
    return both


def title(task: Task) -> str:
    """A task's name for people, with its unit."""
    name = "Disparity" if task.name == "depth" and task.unit == "px" else TITLES.get(task.name, task.name)
    return f"{name} ({task.unit})" if task.unit else name


def legend(task: Task, values: NDArray[Any]) -> Legend:
    """Entries (colour, text): the largest classes of a class map, or the range of other values."""
    if task.activation == "argmax":
        palette = task.palette or voc_palette(task.channels)
        ids, counts = np.unique(values, return_counts=True)
        largest = ids[np.argsort(-counts)]
        return [(palette[i], task.classes[i] if task.classes else f"class {i}") for i in largest]
    if task.activation == "identity":
        low, high = float(values.min()), float(values.max())
        unit = f" {task.unit}" if task.unit else ""
        return [(_swatch(0), f"{low:.3g}{unit}"), (_swatch(-1), f"{high:.3g}{unit}")]
    if task.activation == "unit":
        return [((255, 128, 128), "+x"), ((128, 255, 128), "+y"), ((128, 128, 255), "+z")]
    return [((0, 0, 0), "0"), ((255, 255, 255), "1")]


def _swatch(index: int) -> tuple[int, int, int]:
    red, green, blue = RAMP[index].astype(int).tolist()
    return red, green, blue


def _draw_legend(draw: ImageDraw.ImageDraw, entries: Legend, x: int, y: int, width: int) -> None:
    font = ImageFont.load_default(13)
    left, line = x, 0
    for position, (colour, text) in enumerate(entries):
        needed = 22 + int(draw.textlength(text, font)) + 10
        remaining = len(entries) - position
        if left + needed > x + width - (60 if line == 1 and remaining > 1 else 0):
            if line == 1:
                draw.text((left, y + 20), f"+{remaining} more", fill=_MUTED, font=font)
                return
            left, line = x, 1
        draw.rectangle((left, y + 20 * line + 2, left + 13, y + 20 * line + 14), fill=colour, outline=_MUTED)
        draw.text((left + 19, y + 20 * line), text, fill=_INK, font=font)
        left += needed
