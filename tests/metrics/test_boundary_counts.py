import subprocess
import sys

import numpy as np
import pytest
import torch

from demt.metrics.boundary.inputs import BSDS_THRESHOLDS
from demt.metrics.functional import boundary as module
from demt.metrics.functional import boundary_counts

from . import boundary_golden as golden


@pytest.fixture(params=["numba", "numpy"])
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return request.param


def check_golden(key, backend):
    probability, target, settings = golden.case(key)
    counts = boundary_counts(probability, target, backend=backend, **settings)
    expected = golden.load("counts")
    np.testing.assert_array_equal(counts.predicted, expected[f"{key}.sumP"])
    np.testing.assert_array_equal(counts.matched, expected[f"{key}.exact"])
    np.testing.assert_array_equal(counts.true, np.broadcast_to(expected[f"{key}.sumR"], counts.true.shape))
    short = counts.matched - (expected[f"{key}.exact"] - expected[f"{key}.csa_short"].astype(int))
    assert short.min() >= 0
    assert short.max() <= 17


@pytest.mark.parametrize("key", golden.KEYS)
def test_counts_of_the_original_numba(key):
    pytest.importorskip("numba")
    check_golden(key, "numba")


@pytest.mark.parametrize("key", golden.SMALL)
def test_counts_of_the_original_numpy(key):
    check_golden(key, "numpy")


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(set(golden.KEYS) - set(golden.SMALL)))
def test_counts_of_the_original_numpy_large(key):
    check_golden(key, "numpy")


def oracle(probability, target, max_distance, thresholds, thin=True):
    """Counts from scikit-image's thinning and SciPy's maximum flow, every threshold on its own."""
    morphology = pytest.importorskip("skimage.morphology")
    sparse = pytest.importorskip("scipy.sparse")
    true = np.argwhere(target == 1)
    matched, predicted = [], []
    for threshold in thresholds:
        edges = probability >= threshold
        pixels = np.argwhere(morphology.thin(edges) if thin else edges)
        near = np.sqrt(((pixels[:, None] - true) ** 2).sum(-1)) <= max_distance * np.hypot(*target.shape)
        count = 2 + len(pixels) + len(true)
        capacity = np.zeros((count, count), np.int32)
        capacity[0, 2 : 2 + len(pixels)] = 1
        capacity[2 + len(pixels) :, 1] = 1
        capacity[2 : 2 + len(pixels), 2 + len(pixels) :] = near
        matched.append(sparse.csgraph.maximum_flow(sparse.csr_matrix(capacity), 0, 1).flow_value)
        predicted.append(len(pixels))
    return matched, predicted


@pytest.mark.parametrize("seed", range(40))
def test_equals_maximum_flow_on_random_maps(seed, backend):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 26, 2)
    probability = rng.random((height, width)) * (rng.random((height, width)) < rng.random())
    if seed % 2:
        probability = (probability + np.roll(probability, 1, 0) + np.roll(probability, 1, 1)) / 3
    target = (rng.random((height, width)) < rng.choice([0.05, 0.2, 0.6])).astype(np.uint8)
    max_distance = rng.choice([0.02, 0.06, 0.12, 0.5, 2.0])
    thresholds = rng.permutation([0.0, 0.1, 0.3, 0.3, 0.7, 1.0])
    thin = bool(seed % 3)
    counts = boundary_counts(
        probability, target, max_distance=max_distance, thresholds=thresholds, thin=thin, backend=backend
    )
    matched, predicted = oracle(probability, target, max_distance, thresholds, thin)
    assert counts.matched.tolist() == matched
    assert counts.predicted.tolist() == predicted
    assert counts.true.tolist() == [int(target.sum())] * 6


@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 7, 400])
def test_long_chains_match_one_to_one(length, shift, backend):
    """A line shifted along itself: only a path through every pixel reaches the maximum."""
    probability, target = np.zeros((2, 1, length + shift + 3))
    target[0, 1 : 1 + length] = 1
    probability[0, 1 + shift : 1 + length + shift] = np.linspace(1, 0.5, length)
    counts = boundary_counts(
        probability, target, max_distance=1.01 / probability.shape[1], thresholds=[0.5], thin=False, backend=backend
    )
    assert counts.matched[0] == max(length - shift + 1, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (6, 7)])
@pytest.mark.parametrize("nms", [None, "seism", "mtdp"])
@pytest.mark.parametrize("fill", [0, 1])
@pytest.mark.parametrize("true", [0, 1])
def test_tiny_empty_and_full_maps(shape, nms, fill, true, backend):
    settings = {"max_distance": 0.1, "thresholds": [0.01, 0.5, 0.99], "nms": nms, "backend": backend}
    counts = boundary_counts(np.full(shape, float(fill)), np.full(shape, true), **settings)
    assert counts.true.tolist() == [true * shape[0] * shape[1]] * 3
    assert (counts.matched <= np.minimum(counts.predicted, counts.true)).all()
    if not fill:
        assert counts.predicted.tolist() == [0, 0, 0]
    if not fill or not true:
        assert counts.matched.tolist() == [0, 0, 0]
    elif nms is None and shape == (1, 1):
        assert counts.matched.tolist() == [1, 1, 1]


def test_order_of_thresholds_is_kept(backend):
    probability, target, settings = golden.case("small_curves.bsds.0.011")
    thresholds = settings.pop("thresholds")
    order = np.random.default_rng(0).permutation(len(thresholds))
    straight = boundary_counts(probability, target, thresholds=thresholds, backend=backend, **settings)
    mixed = boundary_counts(
        probability, target, thresholds=iter(thresholds[order].tolist()), backend=backend, **settings
    )
    for a, b in zip(straight, mixed):
        np.testing.assert_array_equal(a[order], b)


def same(a, b):
    for x, y in zip(a, b):
        np.testing.assert_array_equal(x, y)


def test_forms_of_input_agree():
    probability, target, settings = golden.case("small_curves.bsds.0.011")
    expected = boundary_counts(probability, target, **settings)
    wide = np.repeat(probability, 2, 1)[:, ::2]
    assert not wide.flags["C_CONTIGUOUS"]
    same(expected, boundary_counts(wide, np.asfortranarray(target), **settings))
    same(expected, boundary_counts(probability[::-1].copy()[::-1], target.astype(bool), **settings))
    same(expected, boundary_counts(torch.from_numpy(probability), torch.from_numpy(target).long(), **settings))
    floats = torch.from_numpy(probability).double().div(255).requires_grad_()
    same(expected, boundary_counts(floats, target.astype(np.float32), **settings))
    same(expected, boundary_counts(probability.astype(np.float32) / 255, target.tolist(), **settings))
    cut = (probability.astype(np.float32) + 0.5) / 255
    cut[probability == 255] = 1
    same(expected, boundary_counts(cut, target, quantize=True, **settings))
    half = boundary_counts((probability > 100).astype(np.float16), target, **settings)
    same(half, boundary_counts(torch.from_numpy(probability > 100).to(torch.bfloat16), target, **settings))
    same(half, boundary_counts(probability > 100, target, **settings))


def test_input_is_left_as_it_is():
    probability, target, settings = golden.case("small_curves.seism.0.011")
    before = probability.copy(), target.copy()
    boundary_counts(probability, target, **settings)
    same(before, (probability, target))


def test_a_value_equal_to_the_threshold():
    """Without suppression it belongs to the map; with a suppression that keeps real values it does not."""
    probability, target = np.zeros((2, 30, 30), np.uint8)
    probability[15], target[15] = 51, 1
    settings = {"max_distance": 0.01, "thresholds": [0.2]}
    assert boundary_counts(probability, target, **settings).matched[0] == 30
    assert boundary_counts(probability, target, nms="seism", **settings).matched[0] == 0
    assert boundary_counts(probability, target, nms="seism", max_distance=0.01, thresholds=[0.199]).matched[0] > 0


def test_tolerance_includes_its_own_distance():
    probability, target = np.zeros((2, 3, 4))
    probability[0, 0], target[0, 1] = 1, 1
    assert boundary_counts(probability, target, max_distance=0.2, thresholds=[0.5]).matched[0] == 1
    assert boundary_counts(probability, target, max_distance=0.199, thresholds=[0.5]).matched[0] == 0


def test_unlabelled_pixels_are_no_boundary_and_not_masked():
    probability, target = np.zeros((2, 20, 20), np.uint8)
    probability[5] = probability[15] = 200
    target[5], target[14:17] = 1, 255
    counts = boundary_counts(probability, target, max_distance=0.05, thresholds=[0.5])
    assert [int(c[0]) for c in counts] == [20, 40, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": np.zeros((4, 5))}, r"the same shape, got \(4, 4\) and \(4, 5\)"),
        ({"probability": np.zeros((1, 4, 4))}, r"`probability` of shape \(H, W\).*\(1, 4, 4\)"),
        ({"probability": np.zeros((0, 4))}, "at least one pixel"),
        ({"probability": np.full((4, 4), np.nan)}, "`probability` to be finite, got nan"),
        ({"probability": np.full((4, 4), np.inf)}, "`probability` to be finite, got inf"),
        ({"probability": np.full((4, 4), 1.5)}, r"in \[0, 1\], got 1.5"),
        ({"probability": np.full((4, 4), -0.25)}, r"in \[0, 1\], got -0.25"),
        ({"probability": np.zeros((4, 4), np.int64)}, "got int64"),
        ({"probability": np.zeros((4, 4), complex)}, "got complex128"),
        ({"probability": np.full((4, 4), "a")}, "real numbers"),
        ({"target": np.full((4, 4), 2)}, r"0, 1 and 255 \(unlabelled\) only, got 2"),
        ({"target": np.full((4, 4), 0.5)}, "got 0.5"),
        ({"target": np.full((4, 4), 255)}, "255 and no 1"),
        ({"target": np.full((4, 4), np.nan)}, "`target` to be finite"),
        ({"max_distance": 0}, "`max_distance` to be a positive fraction .* got 0"),
        ({"max_distance": -0.1}, "got -0.1"),
        ({"max_distance": float("nan")}, "got nan"),
        ({"max_distance": "1"}, "got '1'"),
        ({"thresholds": []}, "non-empty"),
        ({"thresholds": 0.5}, "a sequence of numbers, got 0.5"),
        ({"thresholds": [0.5, 50]}, r"`thresholds` in \[0, 1\], got 50"),
        ({"thresholds": [float("nan")]}, "got nan"),
        ({"nms": "other"}, "`nms` to be None, one of"),
        ({"backend": "cpp"}, "`backend` to be one of"),
    ],
)
def test_bad_input_says_what_is_wrong(changes, message):
    arguments = {
        "probability": np.zeros((4, 4)),
        "target": np.zeros((4, 4)),
        "max_distance": 0.1,
        "thresholds": [0.5],
        **changes,
    }
    probability, target = arguments.pop("probability"), arguments.pop("target")
    with pytest.raises(ValueError, match=message):
        boundary_counts(probability, target, **arguments)


def test_without_numba(monkeypatch):
    monkeypatch.delitem(sys.modules, "demt.metrics.boundary.numba_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delattr("demt.metrics.boundary.numba_kernels", raising=False)
    module._tools.cache_clear()
    try:
        assert module.resolve_backend("auto") == "numpy"
        with pytest.raises(ImportError, match=r"pip install 'demt\[eval\]'"):
            module.resolve_backend("numba")
    finally:
        module._tools.cache_clear()


def test_no_place_for_the_cache_of_compiled_code(monkeypatch):
    numba = pytest.importorskip("numba")
    from demt.metrics.boundary import numba_kernels

    compile_ = numba.njit

    def without_cache(*args, cache=False, **kwargs):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(*args, **kwargs)

    monkeypatch.setattr(numba, "njit", without_cache)
    assert numba_kernels._jit(lambda x: x + 1)(2) == 3


def test_thresholds_are_the_nearest_numbers_to_hundredths():
    assert tuple(float(f"0.{k:02}") for k in range(1, 100)) == BSDS_THRESHOLDS


@pytest.mark.parametrize("seed", range(6))
def test_edges_that_are_not_stored_give_the_same(seed, monkeypatch):
    from demt.metrics.boundary import matching

    rng = np.random.default_rng(seed)
    probability, target = rng.random((23, 31)), (rng.random((23, 31)) < 0.2).astype(np.uint8)
    settings = {"max_distance": 0.1, "thresholds": [0.9, 0.5, 0.2], "backend": "numpy"}
    stored = boundary_counts(probability, target, **settings)
    monkeypatch.setattr(matching, "_KEPT", 0)
    assert [each.tolist() for each in boundary_counts(probability, target, **settings)] == [
        each.tolist() for each in stored
    ]


MEMORY = """
import resource, sys
import numpy as np
from demt.metrics.functional import boundary_counts
target = np.zeros((1200, 1600), bool)
target[::50] = target[:, ::50] = True
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = boundary_counts(target * 1.0, target, max_distance=0.02, thresholds=[0.5], backend=sys.argv[1])
print(counts.matched[0] > 0.99 * counts.true[0], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the memory that Linux keeps count of")
def test_memory_does_not_grow_with_the_tolerance():
    """All pairs within the tolerance of 40 pixels, some 380 million, would take 1.5 GB."""
    pytest.importorskip("numba")
    run = subprocess.run([sys.executable, "-c", MEMORY, "numba"], capture_output=True, text=True, check=True)
    matched, megabytes = run.stdout.split()
    assert matched == "True"
    assert float(megabytes) < 400
