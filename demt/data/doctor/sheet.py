"""A contact sheet: samples with all their labels, to see at a glance what numbers do not tell."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demt.data.dataset import FileDataset
from demt.data.doctor.recognise import spread
from demt.data.files import DataError
from demt.data.tv_tensors import Label
from demt.tasks import Task
from demt.viz import filled, hatched, legend, task_picture, title

_INK, _MUTED, _WRONG, _PAPER = (30, 30, 30), (110, 110, 110), (180, 30, 30), (255, 255, 255)
_CELL, _GAP, _CAPTION, _TOP = (232, 174), 10, 20, 66
Color = tuple[int, int, int]


@dataclasses.dataclass
class _Cell:
    picture: Image.Image | None
    words: str
    color: Color = _MUTED


def contact_sheet(datasets: Mapping[str, FileDataset], heading: str, *, rows: int = 6) -> Image.Image:
    """A row for each of some samples, evenly spread over all splits: the image and every label, with what it holds.

    Pixels without a label are hatched. A file that cannot be read leaves its reason in its place.

    Args:
        datasets: Data sets by split, of one set of tasks.
        heading: Stands above.
        rows: Number of samples.
    """
    places = [(split, index) for split, dataset in datasets.items() for index in range(len(dataset))]
    tasks = next(iter(datasets.values())).tasks
    cells = [
        [_cell(datasets[split], split, index, name) for name in ("image", *tasks)]
        for split, index in spread(places, rows)
    ]
    heights = [max((cell.picture.height for cell in row if cell.picture), default=_CELL[1]) for row in cells]
    width = _CELL[0] + _GAP
    sheet = Image.new(
        "RGB", (_GAP + width * (1 + len(tasks)), _TOP + sum(heights) + (_CAPTION + _GAP) * len(cells)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), heading, fill=_INK, font=ImageFont.load_default(17))
    right = int(_GAP + draw.textlength(heading, ImageFont.load_default(17))) + 24
    sheet.paste(Image.fromarray(hatched(np.zeros((16, 26, 3), np.uint8), np.ones((16, 26), bool))), (right, 11))
    draw.text((right + 34, 11), "no label", fill=_MUTED, font=ImageFont.load_default(13))
    for column, text in enumerate(["Image", *(title(task) for task in tasks.values())]):
        draw.text((_GAP + column * width, 40), text, fill=_INK, font=ImageFont.load_default(15))
    y = _TOP
    for row, height in zip(cells, heights):
        for column, cell in enumerate(row):
            _draw(sheet, cell, _GAP + column * width, y, height)
        y += height + _CAPTION + _GAP
    return sheet


def _cell(dataset: FileDataset, split: str, index: int, name: str) -> _Cell:
    """A picture of a file with words below it, or why there is none."""
    path = dataset.files(index).get(name)
    if path is None:
        return _Cell(None, "no label")
    try:
        if name == "image":
            pixels = dataset.read_image(index)
            shown = Image.fromarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0])
            return _Cell(_fitted(shown, Image.Resampling.BOX), f"{split}: {dataset.ids[index]}")
        return _Cell(*label_picture(dataset.read_label(index, name), dataset.tasks[name]))
    except (DataError, ImportError) as error:
        return _Cell(None, str(error).replace(f"{path.parent}{os.sep}", ""), _WRONG)


def label_picture(label: Label, task: Task) -> tuple[Image.Image, str]:
    """A label map (C, H, W) in the colours of predictions, as large as a cell, and what it holds in a few words."""
    maps: NDArray[np.float32] = label.as_subclass(torch.Tensor).numpy()
    values, labelled = filled(task, maps)
    picture = task_picture(task, values)
    smooth = Image.Resampling.NEAREST if picture.mode == "P" else Image.Resampling.BOX
    pixels = np.array(_fitted(picture, smooth).convert("RGB"))
    void = np.array(_fitted(Image.fromarray(~labelled), Image.Resampling.NEAREST))
    return Image.fromarray(hatched(pixels, void)), _words(task, maps[0][labelled])


def _words(task: Task, known: NDArray[Any]) -> str:
    if not known.size:
        return "no pixel has a label"
    if task.activation in ("foreground", "sigmoid"):
        return f"{known.mean():.1%}"
    if task.activation == "argmax":
        names = [text for _, text in legend(task, known)]
        return ", ".join(names[:3]) + (f" + {len(names) - 3}" if len(names) > 3 else "")
    return " to ".join(text for _, text in legend(task, known)) if task.activation == "identity" else ""


def _fitted(picture: Image.Image, resample: Image.Resampling) -> Image.Image:
    scale = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
    return picture.resize((max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), resample)


def _draw(sheet: Image.Image, cell: _Cell, x: int, y: int, height: int) -> None:
    draw, font, words = ImageDraw.Draw(sheet), ImageFont.load_default(12), cell.words
    if cell.picture is None:
        draw.rectangle((x, y, x + _CELL[0] - 1, y + height - 1), fill=(244, 244, 244))
        draw.multiline_text((x + 8, y + 8), textwrap.fill(words, 36, max_lines=9), fill=cell.color, font=font)
        return
    sheet.paste(cell.picture, (x, y))
    while draw.textlength(words, font) > _CELL[0]:
        words = f"{words[:-3]}…"
    draw.text((x, y + cell.picture.height + 3), words, fill=cell.color, font=font)
