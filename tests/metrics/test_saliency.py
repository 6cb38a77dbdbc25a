import pytest
import torch
from sklearn.metrics import fbeta_score, precision_recall_fscore_support

from demt.metrics import MaxF
from demt.metrics.functional import f_measure, threshold_counts
from tests.golden_losses import figures, tensors
from tests.metrics.common import case

THRESHOLDS = [k / 20 for k in range(1, 20)]


def test_equals_released_metric():
    outputs, labels = tensors()
    metric = MaxF()
    metric.update(outputs["sal"].softmax(1)[:, 1], labels["sal"])
    assert metric.compute().item() == pytest.approx(figures()["metric/sal"], abs=1e-5)


def test_equals_sklearn():
    preds, target = case("maxf")
    valid = target != 255
    expected = [fbeta_score(target[valid], preds[valid] >= t, beta=0.3**0.5) for t in THRESHOLDS]
    counts = threshold_counts(preds, target, thresholds=torch.tensor(THRESHOLDS))
    assert f_measure(counts).tolist() == pytest.approx(expected, rel=1e-6)
    metric = MaxF()
    metric.update(preds, target)
    assert metric.compute().item() == pytest.approx(max(expected), rel=1e-6)


def test_counts_give_sklearns_precision_and_recall():
    preds, target = case("maxf")
    valid = target != 255
    right, predicted, positive = threshold_counts(preds, target, thresholds=torch.tensor([0.4]))[:, 0].tolist()
    precision, recall, _, _ = precision_recall_fscore_support(
        target[valid], preds[valid] >= 0.4, average="binary", zero_division=0
    )
    assert (right / predicted, right / positive) == pytest.approx((precision, recall))


def test_probability_on_a_threshold_counts_as_salient():
    counts = threshold_counts(torch.tensor([0.5, 0.49999]), torch.tensor([1, 1]), thresholds=torch.tensor([0.5]))
    assert counts[1].tolist() == [1]


def test_second_sigmoid_is_a_sigmoid_of_the_probability():
    preds, target = case("maxf")
    twice, plain = MaxF(second_sigmoid=True), MaxF()
    twice.update(preds, target)
    plain.update(preds.sigmoid(), target)
    assert twice.compute() == plain.compute()
    once = MaxF()
    once.update(preds, target)
    assert twice.compute() != once.compute()
    # Below 0.5 everything is salient, above sigmoid(1) = 0.73 nothing is.
    assert len({tuple(column) for column in twice.counts.T.tolist()}) <= 6


def test_no_positive_anywhere_is_zero_not_nan():
    metric = MaxF()
    metric.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert metric.compute() == 0
