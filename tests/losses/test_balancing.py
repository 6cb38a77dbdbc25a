import math

import pytest
import torch

from demt.losses import DynamicWeightAverage, FixedWeights, UncertaintyWeights


def test_fixed_is_weighted_sum():
    total, weights = FixedWeights([1.0, 50.0])(torch.tensor([2.0, 3.0]), torch.tensor([True, True]))
    assert total == 152
    assert weights.tolist() == [1, 50]


def test_uncertainty_equals_formula():
    balancer = UncertaintyWeights([1.0, 2.0], classification=[True, False])
    with torch.no_grad():
        balancer.log_variance.copy_(torch.tensor([0.4, -0.6]))
    total, weights = balancer(torch.tensor([2.0, 3.0]), torch.tensor([True, True]))
    # 1/σ²·L + log σ for the classification, 2·(1/(2σ²)·L + log σ) for the regression.
    sigma = [math.exp(0.2), math.exp(-0.3)]
    expected = 2 / sigma[0] ** 2 + math.log(sigma[0]) + 2 * (3 / (2 * sigma[1] ** 2) + math.log(sigma[1]))
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert weights.tolist() == pytest.approx([math.exp(-0.4), math.exp(0.6)])


def test_uncertainty_is_learned_towards_its_optimum():
    balancer = UncertaintyWeights([1.0, 1.0], classification=[True, False])
    optimiser = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        balancer(torch.tensor([2.0, 3.0]), torch.tensor([True, True]))[0].backward()
        optimiser.step()
    # d/ds (c·e^{−s}·L + s/2) = 0 at s = log(2·c·L).
    assert balancer.log_variance.tolist() == pytest.approx([math.log(4), math.log(3)], abs=1e-3)


def test_uncertainty_of_absent_task_rests():
    balancer = UncertaintyWeights([1.0, 1.0], classification=[True, False])
    balancer(torch.tensor([2.0, 0.0]), torch.tensor([True, False]))[0].backward()
    assert balancer.log_variance.grad[0] != 0
    assert balancer.log_variance.grad[1] == 0


def _epochs(balancer, epochs):
    for epoch in epochs:
        for losses, present in epoch:
            balancer(torch.tensor(losses), torch.tensor(present))
        balancer.step_epoch()


BOTH = [True, True]
EPOCHS = [
    [([4.0, 2.0], BOTH), ([2.0, 2.0], BOTH)],
    [([1.0, 3.0], BOTH), ([2.0, 0.0], [True, False])],
]


def test_dwa_equals_formula():
    balancer = DynamicWeightAverage([1.0, 5.0], temperature=2.0)
    assert balancer.task_weights().tolist() == [1, 1]
    _epochs(balancer, EPOCHS[:1])
    assert balancer.task_weights().tolist() == [1, 1]
    _epochs(balancer, EPOCHS[1:])
    # Means are 3 then 1.5, and 2 then 3 (the step without labels does not count).
    powers = [math.exp(1.5 / 3 / 2), math.exp(3 / 2 / 2)]
    expected = [2 * power / sum(powers) for power in powers]
    assert balancer.task_weights().tolist() == pytest.approx(expected)
    total, weights = balancer(torch.tensor([1.0, 1.0]), torch.tensor(BOTH))
    assert weights.tolist() == pytest.approx([expected[0], 5 * expected[1]])
    assert total.item() == pytest.approx(expected[0] + 5 * expected[1])


def test_dwa_resumes_from_its_state():
    balancer, resumed = DynamicWeightAverage([1.0, 1.0]), DynamicWeightAverage([1.0, 1.0])
    _epochs(balancer, EPOCHS)
    resumed.load_state_dict(balancer.state_dict())
    torch.testing.assert_close(resumed.task_weights(), balancer.task_weights())
    assert resumed.task_weights()[0] != 1


def test_dwa_survives_an_epoch_without_labels_and_a_loss_of_zero():
    balancer = DynamicWeightAverage([1.0, 1.0])
    _epochs(balancer, [*EPOCHS, [([1.0, 0.0], [True, False])], [([0.0, 0.0], BOTH)], [([0.0, 0.0], BOTH)]])
    assert balancer.task_weights().isfinite().all()
    assert balancer.task_weights().mean() == pytest.approx(1)


def test_dwa_does_not_count_validation():
    balancer = DynamicWeightAverage([1.0, 1.0]).eval()
    balancer(torch.tensor([1.0, 1.0]), torch.tensor(BOTH))
    assert balancer.steps.tolist() == [0, 0]


def test_dwa_temperature_is_checked():
    with pytest.raises(ValueError, match="temperature"):
        DynamicWeightAverage([1.0], temperature=0)
