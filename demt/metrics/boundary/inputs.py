"""Checks of what a user passes: probabilities, true maps, thresholds and tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

#: The thresholds of the BSDS benchmark, for maps without suppression: .01, .02 … .99.
BSDS_THRESHOLDS = tuple(k / 100 for k in range(1, 100))
#: The thresholds of SEISM for soft maps: those of BSDS between .001 and .999.
SEISM_THRESHOLDS = (0.001, *BSDS_THRESHOLDS, 0.999)


def as_map(name: str, values: ArrayLike | Tensor) -> NDArray[Any]:
    """A non-empty real array (H, W) from an array or a tensor on any device. Raises `ValueError` otherwise."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
        array = values.numpy()
    else:
        array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"Expected `{name}` of shape (H, W) with at least one pixel, got {array.shape}")
    if array.dtype.kind not in "buif":
        raise ValueError(f"Expected `{name}` to hold real numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected `{name}` to be finite, got {_first(array[~np.isfinite(array)])}")
    return np.ascontiguousarray(array)


def as_probability(values: ArrayLike | Tensor, quantize: bool = False) -> NDArray[np.float64]:
    """Probabilities (H, W) as float64 in [0, 1]; uint8 is taken as p/255, bool as 0 and 1.

    Args:
        values: What the user passed as `probability`.
        quantize: Cut floats to multiples of 1/255 as ``(255 * p).astype(uint8)`` does when maps are saved.
    """
    array = as_map("probability", values)
    if array.dtype == np.uint8:
        return array / np.float64(255)
    if array.dtype.kind in "ui":
        raise ValueError(
            f"Expected `probability` to be uint8 (0-255), bool or floating point in [0, 1], got {array.dtype}"
        )
    if array.dtype.kind == "f":
        if array.min() < 0 or array.max() > 1:
            raise ValueError(
                f"Expected `probability` in [0, 1], got {_first(array[(array < 0) | (array > 1)])}; "
                "apply a sigmoid to logits, and pass 8-bit maps as uint8"
            )
        if quantize:
            array = array.astype(np.float32) if array.dtype.itemsize < 4 else array
            return (array * array.dtype.type(255)).astype(np.uint8) / np.float64(255)
    return array.astype(np.float64)


def as_target(values: ArrayLike | Tensor) -> NDArray[np.bool_]:
    """The true boundary pixels (H, W) of a map of 0 and 1, where 255 (unlabelled) counts as 0."""
    array = as_map("target", values)
    known = (array == 0) | (array == 1) | (array == 255)
    if not known.all():
        raise ValueError(
            f"Expected `target` to hold 0, 1 and 255 (unlabelled) only, got {_first(array[~known])}; "
            "boundary_target() turns a label map into boundaries"
        )
    true = array == 1
    if not true.any() and (array == 255).any():
        raise ValueError(
            "Expected `target` to mark boundaries with 1, got 255 and no 1; "
            "255 means unlabelled: pass `target == 255` if it marks the boundaries"
        )
    return true


def as_thresholds(thresholds: Iterable[float]) -> NDArray[np.float64]:
    """Thresholds in the given order. Raises `ValueError` if there are none or one is not in [0, 1]."""
    if not isinstance(thresholds, Iterable):
        raise ValueError(f"Expected `thresholds` to be a sequence of numbers, got {thresholds!r}")
    array = np.array([float(threshold) for threshold in thresholds])
    if array.size == 0:
        raise ValueError("Expected `thresholds` to be a non-empty sequence of numbers, got none")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"Expected `thresholds` in [0, 1], got {_first(array[~((array >= 0) & (array <= 1))])}")
    return array


def as_max_distance(max_distance: float) -> float:
    """The tolerance as a fraction of the diagonal. Raises `ValueError` unless it is positive and finite."""
    number = isinstance(max_distance, (int, float, np.integer, np.floating)) and not isinstance(max_distance, bool)
    if not number or not math.isfinite(max_distance) or max_distance <= 0:
        raise ValueError(
            f"Expected `max_distance` to be a positive fraction of the image diagonal such as 0.0075, "
            f"got {max_distance!r}"
        )
    return float(max_distance)


def _first(values: NDArray[Any]) -> Any:
    return values.ravel()[0].item()
