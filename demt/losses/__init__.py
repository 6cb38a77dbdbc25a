"""Losses of the built-in tasks and their balancing."""

from demt.losses.balancing import DynamicWeightAverage, FixedWeights, UncertaintyWeights
from demt.losses.functional import balanced_bce, balanced_cross_entropy, cross_entropy, l1, normals_l1
from demt.losses.jacobian import jacobian_backward
from demt.losses.multitask import LossOutput, MultiTaskLoss
from demt.plugins import register_loss

__all__ = [
    "DynamicWeightAverage",
    "FixedWeights",
    "LossOutput",
    "MultiTaskLoss",
    "UncertaintyWeights",
    "balanced_bce",
    "balanced_cross_entropy",
    "cross_entropy",
    "jacobian_backward",
    "l1",
    "normals_l1",
    "register_loss",
]
