"""Explanations as files: pictures, and the numbers in them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demt.files import new_folder
from demt.inference.explain import Explanation, Pixel
from demt.inference.explain_pictures import (
    attended_picture,
    offsets_picture,
    points_picture,
    shares_picture,
    table_picture,
)

#: What shares are, by the kind of attention; `demt.inference.attention` computes them.
MEANING = {
    "pixelwise": "softmax weights of the tasks' tokens at the same cell, mean over heads",
    "global": "softmax weights of all tasks' tokens of the image, summed over each task's, mean over heads",
    "window": "softmax weights of all tasks' tokens in the cell's window, summed over each task's, mean over heads",
    "deformable": "softmax weights of all tasks' points, summed over each task's, mean over heads",
    "linear": "no softmax: length of what each task's tokens add to the query's result before the output projection, "
    "over the sum of these lengths",
}


def save_explanation(
    explanation: Explanation, folder: Path, pixel: Pixel, tasks: Sequence[str] | None = None, **about: Any
) -> list[Path]:
    """Write the pictures and numbers of an explanation to a new folder, which appears when it is complete.

    Args:
        explanation: See `demt.inference.explain.explain`.
        folder: A folder that does not exist yet, or is empty.
        pixel: Column and row of the image.
        tasks: Tasks that are looked at; by default all. They are compared with all tasks.
        about: What else ``explain.json`` is to say.

    Returns:
        The files.

    Raises:
        FileExistsError: if the folder exists and is not empty.
        ValueError: for unknown tasks, or a pixel outside the image.
    """
    chosen = list(tasks or explanation.tasks)
    found = {**about, **numbers(explanation, pixel, chosen)}
    pictures = {"tasks": table_picture(explanation)}
    for block in range(explanation.blocks):
        number = f"_{block + 1}" if explanation.blocks > 1 else ""
        pictures[f"points{number}"] = points_picture(explanation, pixel, chosen, block=block)
        pictures[f"offsets{number}"] = offsets_picture(explanation, chosen, block=block)
    for task in chosen:
        pictures[f"attention_{task}"] = shares_picture(explanation, task)
        if explanation.attention != "pixelwise":
            pictures[f"attended_{task}"] = attended_picture(explanation, task, pixel)
    with new_folder(folder) as partial:
        for name, picture in pictures.items():
            picture.save(partial / f"{name}.png")
        (partial / "explain.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return [*(folder / f"{name}.png" for name in pictures), folder / "explain.json"]


def numbers(explanation: Explanation, pixel: Pixel, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """The numbers of an explanation for a pixel, as JSON has them."""
    row, column = explanation.cell(pixel)
    height, width = explanation.image.shape[-2:]
    chosen = list(tasks or explanation.tasks)
    shares = {task: explanation.shares(task)[:, row, column].tolist() for task in chosen}
    return {
        "size": {"width": width, "height": height},
        "grid": {"rows": explanation.grid[0], "columns": explanation.grid[1]},
        "pixel": [int(value) for value in pixel],
        "cell": {"row": row, "column": column},
        "tasks": explanation.tasks,
        "attention": {
            "kind": explanation.attention,
            "shares_are": MEANING[explanation.attention],
            "table": explanation.table().tolist(),
            "at_pixel": {task: dict(zip(explanation.tasks, values)) for task, values in shares.items()},
        },
        "interaction": {"kind": explanation.interaction, "table": explanation.interaction_table().tolist()},
        "operators": {
            task: [_operator(explanation, pixel, task, block) for block in range(explanation.blocks)] for task in chosen
        },
    }


def _operator(explanation: Explanation, pixel: Pixel, task: str, block: int) -> dict[str, Any]:
    points = explanation.points(task, pixel, block)
    distances = np.hypot(*(points.xy - points.origin).T)
    return {
        "origin": list(points.origin),
        "points": [_finite(xy) for xy in points.xy],
        "inside": points.inside.tolist(),
        "contribution": points.contribution.tolist(),
        "median_distance": float(np.median(distances[points.inside])) if points.inside.any() else None,
        "cells_that_read_nothing": float(np.isnan(explanation.flow(task, block)).any(0).mean()),
    }


def _finite(xy: Any) -> list[float | None]:
    """JSON has neither infinity nor NaN."""
    return [float(value) if math.isfinite(value) else None for value in xy]
