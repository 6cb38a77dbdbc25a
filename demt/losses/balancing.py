"""Balancing of task losses by scalar weights: fixed, learned from uncertainty, or from the speed of learning.

A balancer takes the losses (T,) of one step and which of them had labels (T,), and returns the weighted sum and the
weight of each task. A task without labels is left out of a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


class FixedWeights(nn.Module):
    """Σ wᵢ·Lᵢ.

    Args:
        weights: One factor per task.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.weights.to(losses.device)
        return (weights * losses).sum(), weights


class UncertaintyWeights(nn.Module):
    """Homoscedastic uncertainty: Σ wᵢ·(cᵢ·exp(−sᵢ)·Lᵢ + sᵢ/2) with learned log-variances sᵢ = log σᵢ².

    c is 1 for classification and 1/2 for regression (Kendall, Gal, Cipolla: Multi-Task Learning Using Uncertainty to
    Weigh Losses, CVPR 2018, equations 7 and 10). All sᵢ start at 0. The sum can become negative. Give
    ``parameters()`` of this module to the optimiser, without weight decay.

    Args:
        weights: One factor wᵢ per task, usually 1.
        classification: Whether each task's loss is that of a classification.
    """

    weights: Tensor
    factors: Tensor

    def __init__(self, weights: Sequence[float], *, classification: Sequence[bool]) -> None:
        super().__init__()
        factors = [1.0 if yes else 0.5 for yes in classification]
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.log_variance = nn.Parameter(torch.zeros(len(factors)))

    def forward(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weights * self.factors * torch.exp(-self.log_variance)
        # Without labels the log-variance must rest too: s/2 alone would push it down for ever.
        penalty = self.weights * self.log_variance / 2 * present
        return (scale * losses + penalty).sum(), scale.detach()


class DynamicWeightAverage(nn.Module):
    """Σ wᵢ·λᵢ·Lᵢ with λᵢ = T·softmax(rᵢ / temperature), rᵢ = mean loss of the last epoch over that of the one before.

    Liu, Johns, Davison: End-to-End Multi-Task Learning with Attention, CVPR 2019, equation 7. λ is 1 until two epochs
    are over. Call `step_epoch` after each epoch; the history is part of the ``state_dict``, so training can resume. A
    mean runs over the steps in which the task had labels; a task without labels in an epoch keeps its ratio.
    With several processes, `step_epoch` sums over them: call it on every process.

    Args:
        weights: One factor wᵢ per task, usually 1.
        temperature: Higher is closer to equal weights; 2 in the paper.
    """

    weights: Tensor
    loss_sum: Tensor
    steps: Tensor
    last: Tensor
    before: Tensor

    def __init__(self, weights: Sequence[float], *, temperature: float = 2.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"Expected `temperature` > 0, got {temperature}")
        self.temperature = temperature
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        for name in ("loss_sum", "steps"):
            self.register_buffer(name, torch.zeros(len(weights)))
        # NaN means: not measured yet.
        for name in ("last", "before"):
            self.register_buffer(name, torch.full((len(weights),), torch.nan))

    def forward(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.loss_sum += losses.detach() * present
            self.steps += present
        weights = self.weights * self.task_weights()
        return (weights * losses).sum(), weights

    def task_weights(self) -> Tensor:
        """λ of each task, (T,); their mean is 1."""
        ratio = self.last / self.before
        ratio = torch.where(ratio.isfinite(), ratio, 1.0)
        return len(ratio) * torch.softmax(ratio / self.temperature, dim=0)

    @torch.no_grad()
    def step_epoch(self) -> None:
        """Close the epoch: its mean losses become part of the ratio."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.loss_sum)
            distributed.all_reduce(self.steps)
        seen = self.steps > 0
        self.before.copy_(torch.where(seen, self.last, self.before))
        self.last.copy_(torch.where(seen, self.loss_sum / self.steps.clamp_min(1), self.last))
        self.loss_sum.zero_()
        self.steps.zero_()
