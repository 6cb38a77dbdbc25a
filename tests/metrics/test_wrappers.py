import pytest
import torch
from torchmetrics import CosineSimilarity, MeanAbsoluteError

from demt.metrics import ValidPixels
from tests.metrics.common import case


def test_only_valid_pixels_arrive():
    preds, target = case("depth")
    valid = target != 255
    metric = ValidPixels(MeanAbsoluteError())
    on_batch = metric(preds[:, None], target)
    assert on_batch.item() == pytest.approx((preds - target)[valid].abs().mean().item())
    metric.update(preds, torch.full_like(target, 255))
    assert metric.compute() == on_batch
    metric.reset()
    metric.update(preds[:1], target[:1])
    assert metric.compute().item() == pytest.approx((preds - target)[:1][valid[:1]].abs().mean().item())


def test_vectors_become_rows():
    preds, target = case("normals")
    valid = (target != 255).all(1)
    metric = ValidPixels(CosineSimilarity(reduction="mean"))
    metric.update(preds, target)
    expected = torch.nn.functional.cosine_similarity(preds, target, dim=1)[valid].mean()
    torch.testing.assert_close(metric.compute(), expected)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="the same shape"):
        ValidPixels(MeanAbsoluteError()).update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))
