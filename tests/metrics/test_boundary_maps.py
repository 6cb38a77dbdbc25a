"""Suppression, thinning and the true boundary."""

import math

import numpy as np
import pytest
import torch

from demt.metrics.boundary.nms import PRESETS, EdgeNms, resolve_nms, suppress
from demt.metrics.boundary.thin import thin
from demt.metrics.functional import boundary_target

from . import boundary_golden as golden


def thinners():
    kernels = pytest.importorskip("demt.metrics.boundary.numba_kernels")
    return [thin, kernels.thin]


@pytest.mark.parametrize("name", ["noise50", "noise80", "blobs", "thickcurves"])
def test_thin_equals_the_original(name):
    shape = golden.load("gt_chain")[f"thin_{name}.shape"]
    for function in thinners():
        result = function(golden.bits("gt_chain", f"thin_{name}.in", shape))
        np.testing.assert_array_equal(result, golden.bits("gt_chain", f"thin_{name}.out", shape))


@pytest.mark.parametrize("seed", range(25))
def test_thin_equals_scikit_image(seed):
    morphology = pytest.importorskip("skimage.morphology")
    rng = np.random.default_rng(seed)
    image = rng.random(rng.integers(1, 50, 2)) < rng.choice([0.3, 0.6, 0.9, 1.0])
    if seed % 2:
        image = morphology.dilation(image & (rng.random(image.shape) < 0.05), np.ones((5, 3)))
    before = image.copy()
    for function in thinners():
        np.testing.assert_array_equal(function(image), morphology.thin(image))
        np.testing.assert_array_equal(function(image.T), morphology.thin(image.T))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "name", ["small_curves", "shift2", "thick", "random_dots", "pascal_like", "nyud_like", "nyud_dense"]
)
def test_suppression_keeps_the_pixels_of_the_original(name):
    probability = golden.load("inputs")[f"{name}.pred"] / 255
    result = suppress(probability, PRESETS["seism"])
    np.testing.assert_array_equal(result > 0, golden.bits("nms", f"{name}.keep", probability.shape))
    if f"{name}.value" in golden.load("nms"):
        np.testing.assert_allclose(result, golden.load("nms")[f"{name}.value"], atol=1e-6)


def plain_suppress(image, nms):
    """The published rule pixel by pixel in float64, with the triangle filter as a sum of weights."""

    def triangle(image, radius):
        height, width = image.shape
        weight = np.array([radius + 1 - abs(k) for k in range(-radius, radius + 1)]) / (radius + 1) ** 2
        padded = np.pad(image, radius, mode="symmetric")
        rows = sum(w * padded[k : k + height] for k, w in enumerate(weight))
        return sum(w * rows[:, k : k + width] for k, w in enumerate(weight))

    def at(y, x):
        y, x = min(max(y, 0), height - 1.001), min(max(x, 0), width - 1.001)
        v, u = int(y), int(x)
        b, a = y - v, x - u
        top = edges[v, u] * (1 - a) + edges[v, u + 1] * a
        return top * (1 - b) + (edges[v + 1, u] * (1 - a) + edges[v + 1, u + 1] * a) * b

    edges = triangle(image, nms.smooth) if nms.smooth else image
    height, width = edges.shape
    by_y, by_x = np.gradient(triangle(edges, 4))
    xx, xy, yy = np.gradient(by_x)[1], np.gradient(by_y)[1], np.gradient(by_y)[0]
    out = np.zeros_like(edges)
    for y in range(height):
        for x in range(width):
            angle = math.atan(yy[y, x] * np.sign(-xy[y, x]) / (xx[y, x] + 1e-5)) % math.pi
            around = [
                at(y + d * math.sin(angle), x + d * math.cos(angle)) for d in range(-nms.radius, nms.radius + 1) if d
            ]
            if nms.multiplier * edges[y, x] >= max(around):
                ramps = [min(1, i / nms.border, (n - 1 - i) / nms.border) for i, n in ((y, height), (x, width))]
                out[y, x] = edges[y, x] * ramps[0] * ramps[1]
    return np.floor(out * 255 + 0.5) / 255 if nms.eight_bit else out


@pytest.mark.parametrize(
    "nms", [PRESETS["seism"], PRESETS["mtdp"], EdgeNms(radius=2, border=3, multiplier=1.1, smooth=2)]
)
def test_suppression_equals_the_plain_rule(nms):
    probability = golden.load("inputs")["shift2.pred"] / 255
    rng = np.random.default_rng(0)
    probability = np.clip(probability + 0.1 * rng.random(probability.shape), 0, 1)
    result, expected = suppress(probability, nms), plain_suppress(probability, nms)
    other = np.abs(result - expected) > (1 / 255 + 1e-6 if nms.eight_bit else 1e-5)
    assert np.count_nonzero(expected) > 200
    assert other.sum() <= 3


def test_eight_bit_suppression_gives_levels_of_a_picture():
    levels = suppress(golden.load("inputs")["shift2.pred"] / 255, PRESETS["mtdp"]) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)


def test_presets_and_own_parameters():
    assert resolve_nms(None) is None
    assert resolve_nms("seism") == EdgeNms(radius=1, smooth=0, border=5, multiplier=1.01)
    assert resolve_nms(own := EdgeNms(radius=3)) is own


@pytest.mark.parametrize(
    "values",
    [{"radius": 0}, {"radius": 1.5}, {"smooth": -1}, {"border": -1}, {"multiplier": 0}, {"multiplier": np.nan}],
)
def test_bad_parameters(values):
    with pytest.raises(ValueError, match=f"`{next(iter(values))}` of EdgeNms"):
        EdgeNms(**values)


@pytest.mark.parametrize("name", ["regions", "noise", "regions_big", "binary_edges"])
def test_true_boundary_equals_the_original(name):
    labels = golden.load("gt_chain")[f"{name}.label"]
    expected = golden.bits("gt_chain", f"{name}.thin", labels.shape)
    np.testing.assert_array_equal(boundary_target(labels), expected)
    np.testing.assert_array_equal(boundary_target(torch.from_numpy(labels).long(), "seism"), expected)
    np.testing.assert_array_equal(boundary_target(labels.astype(np.float32)), expected)


def test_raw_boundary_is_the_map():
    edges = golden.load("inputs")["thick.gt"]
    np.testing.assert_array_equal(boundary_target(edges, "raw"), edges == 1)
    assert boundary_target(edges, "raw").dtype == bool


def test_unsigned_labels_differ_without_wrapping():
    assert boundary_target(np.array([[0, 255]], np.uint8)).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("labels", "mode", "message"),
    [
        (np.zeros((3, 3, 3)), "seism", r"`label_map` of shape \(H, W\)"),
        (np.full((3, 3), 0.5), "seism", "whole numbers"),
        (np.full((3, 3), np.nan), "seism", "finite"),
        (np.full((3, 3), 7), "raw", "got 7"),
        (np.zeros((3, 3)), "thin", "`mode` to be one of"),
    ],
)
def test_bad_label_maps(labels, mode, message):
    with pytest.raises(ValueError, match=message):
        boundary_target(labels, mode)
