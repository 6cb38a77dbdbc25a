"""Boundary evaluation of one image: the true boundary, and exact counts of matched pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from demt.metrics.boundary import matching
from demt.metrics.boundary import thin as thinning
from demt.metrics.boundary.inputs import as_map, as_max_distance, as_probability, as_target, as_thresholds
from demt.metrics.boundary.nms import EdgeNms, resolve_nms, suppress

Backend = Literal["auto", "numba", "numpy"]
NmsName = Literal["seism", "mtdp"]
TargetMode = Literal["seism", "raw"]


class BoundaryCounts(NamedTuple):
    """Pixels of one image (or a data set), one integer per threshold.

    Args:
        matched: Pairs of the maximum matching of predicted with true boundary pixels.
        predicted: Predicted boundary pixels.
        true: True boundary pixels (the same number at every threshold).
    """

    matched: NDArray[np.int64]
    predicted: NDArray[np.int64]
    true: NDArray[np.int64]


def boundary_counts(
    probability: ArrayLike | Tensor,
    target: ArrayLike | Tensor,
    *,
    max_distance: float,
    thresholds: Iterable[float],
    nms: NmsName | EdgeNms | None = None,
    thin: bool = True,
    quantize: bool = False,
    backend: Backend = "auto",
) -> BoundaryCounts:
    """Count predicted, true and matched boundary pixels of one image at every threshold.

    At a threshold t the predicted boundary is probability >= t, or, after a suppression that keeps real values,
    suppressed probability > t (see `EdgeNms.eight_bit`), thinned to lines one pixel wide. Predicted and true pixels
    are matched one to one within the tolerance; the matching has the largest possible number of pairs.

    Args:
        probability: (H, W) map: floats in [0, 1], uint8 read as p/255, or bool.
        target: (H, W) true boundary: 1 on the boundary, else 0. 255 (unlabelled) is not a boundary, and there is no
            ignore mask: predictions there count. Crop padding first. See `boundary_target`.
        max_distance: Tolerance as a fraction of the image's diagonal √(H² + W²), e.g. 0.011 NYUD, 0.0075 PASCAL.
        thresholds: Values in [0, 1] in any order; the counts come in the same order.
        nms: Suppression before thresholding: ``"seism"``, ``"mtdp"``, own parameters, or None.
        thin: Whether to thin the predicted maps. The target is never thinned here.
        quantize: Cut float probabilities to 8 bits first, as when predictions are saved as pictures.
        backend: ``"numba"`` (fast, needs ``demt[eval]``), ``"numpy"``, or ``"auto"`` for numba where it is installed.
            Both are exact and give the same numbers.

    Raises:
        ValueError: for maps of wrong or different shapes, values out of range, or an argument with no meaning.
        ImportError: for ``backend="numba"`` without numba.

    Example:
        >>> import numpy as np
        >>> target = np.zeros((40, 60), np.uint8)
        >>> target[20] = 1
        >>> probability = np.zeros((40, 60))
        >>> probability[21, :30] = 0.8
        >>> counts = boundary_counts(probability, target, max_distance=0.02, thresholds=[0.5, 0.9])
        >>> counts.matched.tolist(), counts.predicted.tolist(), counts.true.tolist()
        ([30, 0], [30, 0], [60, 60])
    """
    max_distance = as_max_distance(max_distance)
    limits = as_thresholds(thresholds)
    nms = resolve_nms(nms)
    tools = _tools(backend)
    soft = as_probability(probability, quantize)
    truth = as_target(target)
    if soft.shape != truth.shape:
        raise ValueError(f"Expected `probability` and `target` of the same shape, got {soft.shape} and {truth.shape}")
    if nms is not None:
        soft = suppress(soft, nms)
    inclusive = nms is None or nms.eight_bit

    height, width = truth.shape
    tolerance = max_distance * math.sqrt(height * height + width * width)
    matcher = tools.matcher(truth, matching.offsets_within(tolerance, (height, width)))
    matched, predicted = np.zeros((2, len(limits)), np.int64)
    pixels, pair = -1, (0, 0)
    # From high to low thresholds the maps only grow, so equal size means equal map.
    for place in np.argsort(-limits, kind="stable"):
        edges = soft >= limits[place] if inclusive else soft > limits[place]
        if (size := int(np.count_nonzero(edges))) != pixels:
            pixels = size
            if thin:
                edges = tools.thin(edges)
            pair = matcher.match(edges), int(np.count_nonzero(edges))
        matched[place], predicted[place] = pair
    return BoundaryCounts(matched, predicted, np.full(len(limits), truth.sum(), np.int64))


def boundary_target(label_map: ArrayLike | Tensor, mode: TargetMode = "seism") -> NDArray[np.bool_]:
    """The true boundary (H, W) of a label map or an edge map.

    Args:
        label_map: (H, W) whole numbers: segment or class ids, or an edge map of 0 and 1.
        mode: ``"seism"``: pixels that differ from their east, south or south-east neighbour, thinned. SEISM does so
            with every map, also with edge maps, where it moves about half of the lines by one pixel. Every value is
            a label, 255 too. ``"raw"``: an edge map as it is, 1 on the boundary; 255 (unlabelled) is not a boundary.

    Raises:
        ValueError: for another mode, a map that is not (H, W) whole numbers, or other values than 0, 1 and 255 in
            ``"raw"``.

    Example:
        >>> boundary_target([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]]).astype(int)
        array([[0, 1, 0, 0],
               [0, 1, 0, 0],
               [0, 1, 0, 0]])
    """
    if mode not in get_args(TargetMode):
        raise ValueError(f"Expected `mode` to be one of {get_args(TargetMode)}, got {mode!r}")
    if mode == "raw":
        return as_target(label_map)
    labels = as_map("label_map", label_map)
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        raise ValueError("Expected `label_map` to hold whole numbers, got fractions; threshold a soft map first")
    boundary = np.zeros(labels.shape, np.bool_)
    boundary[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    boundary[:-1] |= labels[:-1] != labels[1:]
    boundary[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return thinning.thin(boundary)


class _Tools(NamedTuple):
    thin: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
    matcher: Callable[[NDArray[np.bool_], NDArray[np.int64]], Any]


def resolve_backend(backend: Backend) -> Literal["numba", "numpy"]:
    """The backend that ``"auto"`` stands for here. Raises as `boundary_counts` does."""
    return "numpy" if _tools(backend).thin is thinning.thin else "numba"


@cache
def _tools(backend: Backend) -> _Tools:
    if backend not in get_args(Backend):
        raise ValueError(f"Expected `backend` to be one of {get_args(Backend)}, got {backend!r}")
    if backend != "numpy":
        try:
            from demt.metrics.boundary import numba_kernels
        except ImportError as error:
            if backend == "numba":
                raise ImportError(
                    "backend='numba' needs numba: pip install 'demt[eval]', or choose backend='numpy'"
                ) from error
        else:
            return _Tools(numba_kernels.thin, numba_kernels.Matcher)
    return _Tools(thinning.thin, matching.Matcher)
