import numpy as np
import pytest

from demt.metrics import BoundaryScores
from demt.metrics.boundary.scores import precision_recall_f
from demt.metrics.functional import BoundaryCounts, boundary_scores

from . import boundary_golden as golden


def stored_counts(key):
    counts = golden.load("counts")
    predicted = counts[f"{key}.sumP"].astype(np.int64)
    true = np.broadcast_to(counts[f"{key}.sumR"], predicted.shape).astype(np.int64)
    return BoundaryCounts(counts[f"{key}.exact"].astype(np.int64), predicted, true)


def thresholds_of(key):
    return golden.load("counts")["thr." + key.split(".")[1]]


def check(images, key, expected):
    thresholds = thresholds_of(key)
    scores = boundary_scores(iter(images), thresholds)
    between = boundary_scores(images, thresholds, interpolate=True)
    found = {
        "ods": scores.ods,
        "ods_p": scores.ods_precision,
        "ods_r": scores.ods_recall,
        "ois": scores.ois,
        "ap": scores.ap,
        "ods_interp": between.ods,
        "ods_thr_interp": between.ods_threshold,
    }
    assert found == pytest.approx({**found, **{name: expected[name] for name in found if name in expected}}, abs=1e-6)
    assert scores.ods_threshold == thresholds[expected["ods_index"]]
    assert between.ods >= scores.ods - 1e-12
    assert (between.ois, between.ap) == (scores.ois, scores.ap)


@pytest.mark.parametrize("key", golden.KEYS)
def test_scores_of_one_image(key):
    check([stored_counts(key)], key, golden.summary()["per_image"][key])


@pytest.mark.parametrize("key", sorted(golden.summary()["dataset"]))
def test_scores_of_a_data_set(key):
    expected = golden.summary()["dataset"][key]
    images = [stored_counts(f"{name}.{key.split('.', 1)[1]}") for name in expected["images"]]
    check(images, key, expected)
    assert expected["ods"] >= expected["csa_max"]["ods"]


def test_order_of_thresholds_and_images_does_not_matter():
    keys = ["thick.bsds.0.011", "shift2.bsds.0.011", "empty_gt.bsds.0.011"]
    images, thresholds = [stored_counts(key) for key in keys], thresholds_of(keys[0])
    turned = [BoundaryCounts(*(column[::-1] for column in image)) for image in images[::-1]]
    assert boundary_scores(images, thresholds) == boundary_scores(turned, thresholds[::-1])


def test_nothing_predicted_and_nothing_true():
    precision, recall, f = precision_recall_f([0, 0, 0, 0, 3], [0, 5, 0, 5, 6], [0, 0, 5, 5, 4])
    assert precision.tolist() == [1, 0, 1, 0, 0.5]
    assert recall.tolist() == [0, 1, 0, 0, 0.75]
    assert f.tolist() == [0, 0, 0, 0, 0.6]


def test_ois_takes_each_image_at_its_own_threshold():
    first = BoundaryCounts(*np.array([[8, 2], [10, 2], [10, 10]]))
    second = BoundaryCounts(*np.array([[9, 9], [40, 10], [10, 10]]))
    scores = boundary_scores([first, second], [0.2, 0.6])
    assert scores.ois == pytest.approx(2 * 17 / (20 + 20))
    assert scores.ods == pytest.approx(max(2 * 17 / (50 + 20), 2 * 11 / (12 + 20)))


def test_scores_by_name():
    assert list(boundary_scores([stored_counts("thick.bsds.0.011")], thresholds_of("thick.bsds")).to_dict()) == list(
        BoundaryScores.__dataclass_fields__
    )


@pytest.mark.parametrize(
    ("count", "thresholds", "message"),
    [
        (0, [0.5, 0.6], "at least one image, got none"),
        (1, [0.5], "counts at 1 thresholds"),
        (1, [], "non-empty"),
        (1, [0.5, 0.5], "each once"),
    ],
)
def test_bad_input(count, thresholds, message):
    images = [BoundaryCounts(*np.array([[1, 1], [2, 1], [3, 3]]))] * count
    with pytest.raises(ValueError, match=message):
        boundary_scores(images, thresholds)
