import pytest
import torch
from sklearn import metrics as sklearn
from torchmetrics.classification import MulticlassJaccardIndex

from demt.metrics import MeanIoU
from demt.metrics.functional import confusion_matrix
from tests.golden_losses import figures, tensors
from tests.metrics.common import case


@pytest.mark.parametrize(("task", "classes"), [("semseg", 40), ("human_parts", 7)])
def test_equals_released_metric(task, classes):
    outputs, labels = tensors()
    metric = MeanIoU(classes)
    metric.update(outputs[task].argmax(1), labels[task])
    assert metric.compute().item() == pytest.approx(figures()[f"metric/{task}"], abs=1e-5)


def test_confusion_equals_sklearn():
    preds, target = case("miou")
    valid = target != 255
    expected = sklearn.confusion_matrix(target[valid], preds[valid], labels=range(6))
    assert confusion_matrix(preds, target, num_classes=6).tolist() == expected.tolist()


def test_classes_equal_sklearn_and_absent_ones_are_zero_or_skipped():
    preds, target = case("miou")
    valid = target != 255
    # Class 5 is in neither labels nor predictions.
    expected = sklearn.jaccard_score(target[valid], preds[valid], labels=range(5), average=None)
    metric = MeanIoU(6)
    metric.update(preds, target)
    assert metric.per_class()[:5].tolist() == pytest.approx(expected)
    assert metric.per_class()[5].isnan()
    assert metric.compute().item() == pytest.approx(expected.sum() / 6)
    skipping = MeanIoU(6, absent="skip")
    skipping.update(preds, target)
    assert skipping.compute().item() == pytest.approx(expected.mean())


def test_skipping_absent_classes_equals_torchmetrics():
    preds, target = case("miou")
    reference = MulticlassJaccardIndex(6, ignore_index=255)
    ours = MeanIoU(6, absent="skip")
    reference.update(preds, target)
    ours.update(preds, target[:, None])
    torch.testing.assert_close(ours.compute(), reference.compute())
