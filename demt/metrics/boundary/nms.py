"""Non-maximum suppression of a soft boundary map across the boundary's direction.

The rule of the structured edge toolbox (Dollár and Zitnick, "Fast Edge Detection Using Structured Forests", PAMI 2015)
with the orientation taken from the map itself, as SEISM (Pont-Tuset and Marques, CVPR 2013) applies it to soft maps.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float64]
SingleMap = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeNms:
    """Parameters of the suppression.

    Args:
        radius: A pixel is compared with the map at distances 1 … `radius` on both sides of it.
        smooth: Radius of the triangle filter that the map passes through first; 0 leaves it as it is.
        border: Width in pixels of the linear ramp to 0 at the image border.
        multiplier: A pixel goes when `multiplier` times its value is below a value it is compared with.
        eight_bit: Round the result to multiples of 1/255, as when it is saved as a picture. The map at a threshold t
            is then E >= t, as for a saved picture; without rounding it is E > t.

    Raises:
        ValueError: for a radius below 1, a negative `smooth` or `border`, or a multiplier that is not positive.
    """

    radius: int = 1
    smooth: int = 0
    border: int = 5
    multiplier: float = 1.01
    eight_bit: bool = False

    def __post_init__(self) -> None:
        for name, least in (("radius", 1), ("smooth", 0), ("border", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"Expected `{name}` of EdgeNms to be an integer >= {least}, got {value!r}")
        if not (np.isfinite(self.multiplier) and self.multiplier > 0):
            raise ValueError(f"Expected `multiplier` of EdgeNms to be a positive number, got {self.multiplier!r}")


#: Suppression under the names of the evaluations that use it.
PRESETS = {"seism": EdgeNms(), "mtdp": EdgeNms(radius=4, smooth=1, eight_bit=True)}


def resolve_nms(nms: Literal["seism", "mtdp"] | EdgeNms | None) -> EdgeNms | None:
    """The parameters that a preset's name stands for. Raises `ValueError` for an unknown name."""
    if nms is None or isinstance(nms, EdgeNms):
        return nms
    if isinstance(nms, str) and nms in PRESETS:
        return PRESETS[nms]
    raise ValueError(f"Expected `nms` to be None, one of {sorted(PRESETS)} or an EdgeNms, got {nms!r}")


def suppress(probability: FloatMap, nms: EdgeNms) -> FloatMap:
    """Keep the pixels of a map (H, W) in [0, 1] that are maxima across the boundary; the others become 0.

    What is kept is decided in float32 with running sums, as the C++ of the toolbox does: where the map is flat the
    orientation is rounding error, and only the same arithmetic keeps the same pixels.
    """
    edges = probability.astype(np.float32)
    if nms.smooth:
        edges = _triangle(edges, nms.smooth)
        probability = edges.astype(np.float64)
    direction = _orientation(edges)
    rows, columns = np.nonzero(edges)
    strength = edges[rows, columns] * np.float32(nms.multiplier)
    cosine, sine = np.cos(direction[rows, columns]), np.sin(direction[rows, columns])
    y, x = rows.astype(np.float32), columns.astype(np.float32)
    keep = np.ones(len(rows), np.bool_)
    for distance in map(np.float32, (*range(-nms.radius, 0), *range(1, nms.radius + 1))):
        keep &= strength >= _sample(edges, y + distance * sine, x + distance * cosine)
    result = np.zeros_like(probability)
    result[rows[keep], columns[keep]] = probability[rows[keep], columns[keep]]
    border = min(nms.border, *(length // 2 for length in edges.shape))
    if border:
        result *= _ramp(edges.shape[0], border)[:, None] * _ramp(edges.shape[1], border)
    if nms.eight_bit:
        levels = result.astype(np.float32) * np.float32(255)
        result = np.floor(levels.astype(np.float64) + 0.5) / 255
    return result


def _triangle(image: SingleMap, radius: int) -> SingleMap:
    """Filter rows, then columns with the triangle 1 … radius+1 … 1 of sum 1, the image mirrored at its border."""
    if radius == 1 or min(image.shape) <= max(3, 2 * radius + 1):
        return _weighted(_weighted(image.T, radius).T, radius)
    scale = np.float32(1) / np.float32((radius + 1) ** 4)
    return _running(_running(image.T, radius, scale).T, radius, np.float32(1))


def _weighted(image: SingleMap, radius: int) -> SingleMap:
    """The triangle filter along the first axis as a weighted sum."""
    rising = np.arange(1, radius + 2, dtype=np.float32)
    weights = np.concatenate([rising, rising[-2::-1]])
    padded = np.pad(image, [(radius, radius), (0, 0)], mode="symmetric")
    total = np.zeros_like(image)
    for first, weight in enumerate(weights):
        total += weight * padded[first : first + len(image)]
    return total / np.float32((radius + 1) ** 2)


def _running(image: SingleMap, radius: int, scale: np.float32) -> SingleMap:
    """The triangle filter along the first axis times `scale` (not divided by its sum), by two running sums."""
    reach = radius + 1
    padded = np.pad(image, [(reach, reach), (0, 0)], mode="symmetric")
    box = np.cumsum(image[:reach], axis=0, dtype=np.float32)
    first = 2 * np.cumsum(box, axis=0, dtype=np.float32)[-1:] - box[-1:]
    bend = padded[: len(image) - 1] + padded[2 * reach : -1] - 2 * padded[reach : -reach - 1]
    slope = np.cumsum(bend, axis=0, dtype=np.float32)
    return np.cumsum(np.concatenate([scale * first, scale * slope]), axis=0, dtype=np.float32)


def _orientation(edges: SingleMap) -> SingleMap:
    """Angle in [0, π) across the boundary, from the second derivatives of the smoothed map."""
    smooth = _triangle(edges, 4)
    along_y, along_x = (_gradient(smooth, axis) for axis in (0, 1))
    xx, xy, yy = _gradient(along_x, 1), _gradient(along_y, 1), _gradient(along_y, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.arctan(yy * np.sign(-xy) / (xx + np.float32(1e-5)))
    return np.mod(np.nan_to_num(angle, nan=0.0), np.float32(np.pi))  # type: ignore[no-any-return]


def _gradient(image: SingleMap, axis: int) -> SingleMap:
    return np.gradient(image, axis=axis) if image.shape[axis] > 1 else np.zeros_like(image)


def _sample(image: SingleMap, y: SingleMap, x: SingleMap) -> SingleMap:
    """Bilinear values at points (y, x), which are moved inside the image first."""
    height, width = image.shape
    y = np.clip(y, np.float32(0), np.float32(max(height - 1.001, 0)))
    x = np.clip(x, np.float32(0), np.float32(max(width - 1.001, 0)))
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    y, x = y - top.astype(np.float32), x - left.astype(np.float32)
    upper = image[top, left] * (1 - x) + image[top, right] * x
    lower = image[down, left] * (1 - x) + image[down, right] * x
    return upper * (1 - y) + lower * y  # type: ignore[no-any-return]


def _ramp(length: int, border: int) -> FloatMap:
    place = np.arange(length)
    return np.minimum(1.0, np.minimum(place, place[::-1]) / border)
