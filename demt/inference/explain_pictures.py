"""Explanations as pictures: sample points, fields of offsets, maps and tables of attention."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demt.inference.explain import Explanation, Pixel
from demt.viz import TITLES

_INK, _PAPER, _MUTED, _LINE = (30, 30, 30), (255, 255, 255), (110, 110, 110), (190, 190, 190)
_POINT, _MARK = (255, 196, 0), (214, 40, 40)
_GAP, _HEAD = 16, 26
#: Of the image around it, where points outside it are drawn.
_MARGIN = 0.2
#: Along the longer side.
_ARROWS = 12


def points_picture(
    explanation: Explanation, pixel: Pixel, tasks: Sequence[str] | None = None, *, block: int = 0, width: int = 420
) -> Image.Image:
    """Where the operators of tasks sample for a pixel (x, y): a picture with its points for each task.

    The cross is the pixel. A disc is a group of channels, its area what it contributes; what lies outside the map,
    where an operator reads zero, is a small ring on the margin, and what lies beyond that is counted alone.

    Args:
        explanation: See `demt.inference.explain.explain`.
        pixel: Column and row of the image.
        tasks: By default all.
        block: Which operator, of those in a row.
        width: Of the image in the picture, in pixels.
    """
    image, scale = _image(explanation, width)
    margin = (round(image.width * _MARGIN), round(image.height * _MARGIN))
    ground = Image.new("RGB", (image.width + 2 * margin[0], image.height + 2 * margin[1]), (236, 236, 236))
    ground.paste(_faded(image), margin)
    panels = []
    for task in tasks or explanation.tasks:
        found, panel = explanation.points(task, pixel, block), ground.copy()
        draw = ImageDraw.Draw(panel)
        total = found.contribution.sum() or 1.0
        order = np.argsort(found.contribution)
        x0, y0 = _place(found.origin, scale, margin)
        for index in order:
            x, y = _place(found.xy[index], scale, margin)
            if found.inside[index]:
                draw.line((x0, y0, x, y), fill=(255, 236, 170))
        for index in order:
            x, y = _place(found.xy[index], scale, margin)
            if not found.inside[index]:
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), outline=_MUTED)
                continue
            radius = 2 + width / 14 * math.sqrt(found.contribution[index] / total)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_POINT, outline=_INK)
        cross(draw, _place(pixel, scale, margin))
        panels.append((f"{_title(task)}: {int(found.inside.sum())} of {len(found.xy)} points on the map", panel))
    return _grid(panels)


def offsets_picture(
    explanation: Explanation, tasks: Sequence[str] | None = None, *, block: int = 0, width: int = 420
) -> Image.Image:
    """Where operators' outputs come from (`Explanation.flow`): colours for direction and distance, and arrows.

    The arrows are shortened, all alike; dark is where nothing is read.

    Args:
        explanation: See `demt.inference.explain.explain`.
        tasks: By default all.
        block: Which operator, of those in a row.
        width: Of the image in the picture, in pixels.
    """
    image, scale = _image(explanation, width)
    rows, columns = explanation.grid
    panels = []
    for task in tasks or explanation.tasks:
        flow = explanation.flow(task, block)
        empty: NDArray[np.bool_] = np.isnan(flow[0])
        flow = np.where(empty, 0, flow)
        longest = float(np.quantile(np.hypot(*flow), 0.99)) or 1.0
        shown = np.where(empty[..., None], np.uint8(60), _wheel(flow / longest))
        colours = Image.fromarray(shown).resize(image.size, Image.Resampling.NEAREST)
        panel = Image.blend(image.convert("L").convert("RGB"), colours, 0.65)
        draw = ImageDraw.Draw(panel)
        shorter = min(max(image.size) / _ARROWS / (longest * scale), 1.0)
        for row, column in _lattice(explanation.grid):
            if not empty[row, column]:
                x, y = ((column + 0.5) * image.width / columns - 0.5, (row + 0.5) * image.height / rows - 0.5)
                dx, dy = flow[:, row, column] * scale * shorter
                _arrow(draw, x, y, x + dx, y + dy)
        _draw_key(panel, draw)
        panels.append((f"{_title(task)}: rim {longest:.0f} px, arrows 1:{1 / shorter:.1f}", panel))
    return _grid(panels)


def _draw_key(panel: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    """The disc of colours, in a corner."""
    side = max(panel.height // 6, 40)
    axis = np.linspace(-1, 1, side)
    disc = np.stack(np.broadcast_arrays(axis[None], axis[:, None]))
    x, y = panel.width - side - 6, panel.height - side - 6
    draw.ellipse((x - 2, y - 2, x + side + 1, y + side + 1), fill=_PAPER)
    panel.paste(Image.fromarray(_wheel(disc)), (x, y), Image.fromarray(np.hypot(*disc) <= 1))


def shares_picture(explanation: Explanation, task: str, *, width: int = 300) -> Image.Image:
    """How much of each task a task takes, over the image (`Explanation.shares`): a map for each task that is asked."""
    image, _ = _image(explanation, width)
    maps = explanation.shares(task)
    return _maps(explanation, task, image, maps)


def attended_picture(explanation: Explanation, task: str, pixel: Pixel, *, width: int = 300) -> Image.Image:
    """Where a task looks for one pixel, in the map of each task (`Explanation.attended`), the cross being the pixel."""
    image, scale = _image(explanation, width)
    return _maps(explanation, task, image, explanation.attended(task, pixel), _place(pixel, scale, (0, 0)))


def table_picture(explanation: Explanation) -> Image.Image:
    """How much each task (row) takes from each task (column), in percent: `Explanation.table`."""
    table, side, left, top = explanation.table(), 88, 190, 130
    canvas = Image.new("RGB", (left + side * len(table) + _GAP, top + side * len(table) + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    small, large = ImageFont.load_default(14), ImageFont.load_default(18)
    draw.text((_GAP, _GAP), f"Shares of attention ({explanation.attention}), in percent", fill=_INK, font=large)
    draw.text((_GAP, _GAP + 26), "rows ask, columns are asked; the rows add up to 100", fill=_MUTED, font=small)
    highest = float(table.max()) or 1.0
    for row, task in enumerate(explanation.tasks):
        draw.text((_GAP, top + side * row + side // 2), _short(task), fill=_INK, font=small, anchor="lm")
        draw.text((left + side * row + side // 2, top - 10), _short(task), fill=_INK, font=small, anchor="ms")
        for column, value in enumerate(table[row]):
            box = (left + side * column, top + side * row, left + side * (column + 1) - 2, top + side * (row + 1) - 2)
            colour = _heat(np.array(value / highest))
            draw.rectangle(box, fill=tuple(colour.tolist()))
            ink = _INK if colour.mean() > 120 else _PAPER
            middle = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
            draw.text(middle, f"{100 * value:.1f}", fill=ink, font=large, anchor="mm")
    return canvas


def _maps(
    explanation: Explanation,
    task: str,
    image: Image.Image,
    maps: NDArray[np.float32],
    pixel: tuple[float, float] | None = None,
) -> Image.Image:
    """Shares as colours over the image, all from the same range."""
    high = float(maps.max()) or 1.0
    panels = []
    for name, values in zip(explanation.tasks, maps):
        heat = Image.fromarray(_heat(values / high))
        panel = Image.blend(image.convert("L").convert("RGB"), heat.resize(image.size, Image.Resampling.NEAREST), 0.7)
        if pixel is not None:
            cross(ImageDraw.Draw(panel), pixel)
        total = f"{100 * float(values.sum() if pixel else values.mean()):.1f} %"
        panels.append((f"{_title(task)} asks {_title(name)}: {total}", panel))
    return _grid(panels, f"Dark is 0, bright {100 * high:.3g} % of what {_title(task).lower()} takes at a cell")


def _image(explanation: Explanation, width: int) -> tuple[Image.Image, float]:
    """The image at this width, and by how much that enlarges it."""
    pixels = explanation.image[:3].expand(3, -1, -1).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    scale = width / picture.width
    size = (width, max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS), scale


def _place(xy: Sequence[float] | NDArray[np.float64], scale: float, margin: tuple[int, int]) -> tuple[float, float]:
    """Coordinates of the image as those of the picture; both count from the centre of the first pixel."""
    return (xy[0] + 0.5) * scale - 0.5 + margin[0], (xy[1] + 0.5) * scale - 0.5 + margin[1]


def _faded(image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, _PAPER), 0.25)


def cross(draw: ImageDraw.ImageDraw, at: tuple[float, float]) -> None:
    for width, colour in ((5, _PAPER), (2, _MARK)):
        draw.line((at[0] - 9, at[1], at[0] + 9, at[1]), fill=colour, width=width)
        draw.line((at[0], at[1] - 9, at[0], at[1] + 9), fill=colour, width=width)


def _arrow(draw: ImageDraw.ImageDraw, x: float, y: float, to_x: float, to_y: float) -> None:
    angle, length = math.atan2(to_y - y, to_x - x), math.hypot(to_x - x, to_y - y)
    draw.line((x, y, to_x, to_y), fill=_INK, width=2)
    if length > 4:
        tips = [(to_x - 6 * math.cos(angle + turn), to_y - 6 * math.sin(angle + turn)) for turn in (-0.45, 0.45)]
        draw.polygon([(to_x, to_y), *tips], fill=_INK)
    else:
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=_INK)


def _lattice(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells evenly spread over the map, `_ARROWS` along its longer side."""
    step = max(grid) / _ARROWS
    rows, columns = (np.arange(step / 2, side, step).astype(int) for side in grid)
    return [(int(row), int(column)) for row in rows for column in columns]


def _wheel(vectors: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Vectors (2, H, W) as colours: the hue is the direction, white no length, full colour length 1 and more."""
    angle, length = np.arctan2(vectors[1], vectors[0]), np.hypot(*vectors).clip(0, 1)
    hues = np.array([colorsys.hsv_to_rgb(step / 255, 1, 1) for step in range(256)])
    colour = hues[((angle / (2 * np.pi)) % 1 * 255).astype(int)]
    return np.rint(255 * (1 - length[..., None] * (1 - colour))).astype(np.uint8)


def _heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values in [0, 1] as colours from dark to bright, ordered in grey too."""
    stops = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
    place = np.asarray(values).clip(0, 1) * (len(stops) - 1)
    return np.rint(np.stack([np.interp(place, np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)).astype(
        np.uint8
    )


def _grid(panels: Sequence[tuple[str, Image.Image]], note: str | None = None) -> Image.Image:
    columns = min(len(panels), 2 if len(panels) == 4 else 3)
    rows = math.ceil(len(panels) / columns)
    width, height = panels[0][1].size
    below = _HEAD if note else 0
    size = (_GAP + columns * (width + _GAP), _GAP + rows * (_HEAD + height + _GAP) + below)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (title, panel) in enumerate(panels):
        x, y = _GAP + index % columns * (width + _GAP), _GAP + index // columns * (_HEAD + height + _GAP)
        draw.text((x, y), title, fill=_INK, font=ImageFont.load_default(15))
        canvas.paste(panel, (x, y + _HEAD))
        draw.rectangle((x, y + _HEAD, x + width - 1, y + _HEAD + height - 1), outline=_LINE)
    if note:
        draw.text((_GAP, size[1] - _HEAD - 4), note, fill=_MUTED, font=ImageFont.load_default(14))
    return canvas


def _title(task: str) -> str:
    return TITLES.get(task, task)


def _short(task: str) -> str:
    return {"semseg": "Segmentation", "normals": "Normals"}.get(task, TITLES.get(task, task))
