import pytest
import torch
from sklearn import metrics as sklearn
from torchmetrics import MeanSquaredError

from demt.metrics import DepthMetrics, RootMeanSquaredError
from tests.golden_losses import figures, tensors
from tests.metrics.common import case


@pytest.mark.parametrize("metric", [DepthMetrics, RootMeanSquaredError])
@pytest.mark.parametrize(("ignore_index", "figure"), [(255, "ignore=255"), (0, "official_ignore=0")])
def test_equals_released_metric(metric, ignore_index, figure):
    outputs, labels = tensors()
    metric = metric(ignore_index=ignore_index)
    metric.update(outputs["depth"], labels["depth"])
    value = metric.compute()
    value = value["rmse"] if isinstance(value, dict) else value
    # The larger figure was summed in float32: 1e-5 of its size.
    assert value.item() == pytest.approx(figures()[f"metric/depth@{figure}"], rel=1e-5)


def test_equals_other_libraries():
    preds, target = case("depth")
    valid = target != 255
    p, g = preds[valid], target[valid]
    metric = DepthMetrics()
    metric.update(preds, target[:, None])
    result = metric.compute()
    reference = MeanSquaredError(squared=False)
    reference.update(p, g)
    assert result["rmse"].item() == pytest.approx(reference.compute().item(), rel=1e-5)
    assert result["abs_rel"].item() == pytest.approx(sklearn.mean_absolute_percentage_error(g, p), rel=1e-5)
    assert result["delta1"].item() == pytest.approx((torch.maximum(p / g, g / p) < 1.25).float().mean().item())


def test_negative_prediction_is_not_close():
    metric = DepthMetrics()
    metric.update(torch.tensor([[[-2.0, 0.0]]]), torch.tensor([[[2.0, 2.0]]]))
    assert metric.compute()["delta1"] == 0


def test_rmse_of_vectors_sums_over_channels():
    preds, target = torch.zeros(1, 2, 1, 2), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).repeat(1, 1, 1, 2)
    target[0, 1, 0, 1] = 255
    metric = RootMeanSquaredError()
    metric.update(preds, target)
    assert metric.compute() == 5
