import pytest
import torch
from torch import nn

from demt.losses import MultiTaskLoss, jacobian_backward

TASKS = {"semseg": 4, "depth": 1}


def _setup():
    torch.manual_seed(0)
    trunk = nn.Conv2d(3, 8, 3, padding=1)
    heads = nn.ModuleDict({"semseg": nn.Conv2d(8, 4, 1), "depth": nn.Conv2d(8, 1, 1)})
    features = trunk(torch.randn(2, 3, 6, 6)).relu()
    outputs = {name: head(features) for name, head in heads.items()}
    targets = {"semseg": torch.randint(0, 4, (2, 6, 6)), "depth": torch.rand(2, 6, 6)}
    return trunk, heads, features, outputs, targets


def _gradients(module):
    return [parameter.grad.clone() for parameter in module.parameters()]


def test_sum_aggregator_is_plain_backward():
    aggregation = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed")
    trunk, heads, features, outputs, targets = _setup()
    MultiTaskLoss(TASKS, weights={"depth": 3.0})(outputs, targets).total.backward()
    expected = [*_gradients(trunk), *_gradients(heads)]
    trunk, heads, features, outputs, targets = _setup()
    result = MultiTaskLoss(TASKS, weights={"depth": 3.0})(outputs, targets)
    jacobian_backward(result, features=[features], shared_parameters=trunk.parameters(), aggregator=aggregation.Sum())
    torch.testing.assert_close([*_gradients(trunk), *_gradients(heads)], expected)


def test_upgrad_does_not_increase_any_loss():
    aggregation = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed")
    pytest.importorskip("qpsolvers", reason="TorchJD is installed without its solver for UPGrad")
    rows = []
    for name in TASKS:
        trunk, _, features, outputs, targets = _setup()
        MultiTaskLoss(TASKS)(outputs, {name: targets[name]}).total.backward()
        rows.append(torch.cat([gradient.flatten() for gradient in _gradients(trunk)]))
    trunk, _, features, outputs, targets = _setup()
    result = MultiTaskLoss(TASKS)(outputs, targets)
    jacobian_backward(
        result, features=[features], shared_parameters=trunk.parameters(), aggregator=aggregation.UPGrad()
    )
    combined = torch.cat([gradient.flatten() for gradient in _gradients(trunk)])
    assert all(row @ combined >= -1e-4 for row in rows)


def test_task_without_labels_takes_no_part():
    aggregation = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed")
    trunk, _, features, outputs, targets = _setup()
    result = MultiTaskLoss(TASKS)(outputs, {"depth": targets["depth"]})
    jacobian_backward(result, features=[features], shared_parameters=trunk.parameters(), aggregator=aggregation.MGDA())
    assert trunk.weight.grad.abs().sum() > 0


def test_no_label_at_all():
    pytest.importorskip("torchjd", reason="TorchJD is not installed")
    trunk, _, features, outputs, _ = _setup()
    with pytest.raises(ValueError, match="No task has a labelled pixel"):
        jacobian_backward(
            MultiTaskLoss(TASKS)(outputs, {}),
            features=[features],
            shared_parameters=trunk.parameters(),
            aggregator=None,
        )


def test_error_without_torchjd(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchjd.autojac", None)
    trunk, _, features, outputs, targets = _setup()
    with pytest.raises(ImportError, match=r"demt\[balancing\]"):
        jacobian_backward(
            MultiTaskLoss(TASKS)(outputs, targets),
            features=[features],
            shared_parameters=trunk.parameters(),
            aggregator=None,
        )
