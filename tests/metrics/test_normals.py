import math

import pytest
import torch
from torch.nn import functional as F

from demt.metrics import NormalsMetrics
from demt.metrics.functional import angular_errors, median_from_histogram
from tests.golden_losses import figures, tensors
from tests.metrics.common import case


def test_equals_released_metric():
    outputs, labels = tensors()
    metric = NormalsMetrics()
    metric.update(outputs["normals"], labels["normals"])
    assert metric.compute()["mean"].item() == pytest.approx(figures()["metric/normals"], abs=1e-5)


def test_equals_arc_cosine_in_float64():
    preds, target = case("normals", images=4)
    valid = (target != 255).all(1)
    cosine = F.cosine_similarity(preds.double(), target.double(), dim=1)[valid]
    angles = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    metric = NormalsMetrics()
    metric.update(preds, target)
    result = metric.compute()
    assert result["mean"].item() == pytest.approx(angles.mean().item(), rel=1e-6)
    assert result["median"].item() == pytest.approx(angles.quantile(0.5).item(), abs=0.005)
    for limit in (11.25, 22.5, 30):
        assert result[f"below_{limit:g}"].item() == pytest.approx((angles < limit).double().mean().item())


@pytest.mark.parametrize("degrees", [0, 0.001, 1, 45, 90, 179.99, 180])
def test_known_angles(degrees):
    angle = math.radians(degrees)
    target = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    preds = torch.tensor([math.cos(angle), math.sin(angle), 0.0]).view(1, 3, 1, 1) * 7
    assert angular_errors(preds, target).item() == pytest.approx(degrees, abs=3e-5)
    metric = NormalsMetrics()
    metric.update(preds, target)
    assert metric.compute()["median"].item() == pytest.approx(degrees, abs=0.0051)


@pytest.mark.parametrize("count", [1, 2, 5, 100, 1001])
def test_median_is_within_half_a_bin(count):
    values = 180 * torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    histogram = torch.bincount((values / 0.01).long(), minlength=18000)
    assert median_from_histogram(histogram, width=0.01).item() == pytest.approx(
        values.quantile(0.5).item(), abs=0.00501
    )


def test_a_zero_vector_is_no_label_but_a_wrong_prediction():
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 2)
    target[..., 1] = 0
    angles = angular_errors(torch.zeros_like(target), target)
    assert angles.tolist() == pytest.approx([90.0])
