"""Smoothing of a video's predictions over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from demt.inference.blend import certainty
from demt.tasks import Task

#: Weight of a pixel of which the network knows nothing: it must have a value, too.
_LEAST = 0.01


class Smoother:
    """Means over a video's past, in which a frame's weight fades with time, and pixels count by how sure they are.

    With values v and certainty c of a pixel at time t, and a time constant s, the mean m and its weight w become

        w(t) = exp(-dt / s) w(t - dt) + c(t),   m(t) = m(t - dt) + c(t) / w(t) (v(t) - m(t - dt)).

    Values are those of `demt.inference.blend`: class maps and probabilities are averaged as probabilities, normals as
    unit vectors, depth and other values as they are. Certainty is `certainty` there, and 1 for normals and values. A
    pixel's past is that of its place: motion is not tracked.

    Args:
        tasks: Of the maps.
        seconds: The time constant s: after it a frame counts 1/e = 37 %.
    """

    def __init__(self, tasks: Mapping[str, Task], seconds: float) -> None:
        self.tasks, self.seconds = tasks, seconds
        self.time: Fraction | None = None
        self.means: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def __call__(self, time: Fraction, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means (1, K, h, w) by task, after a frame with these maps; good until the next call."""
        passed = 0.0 if self.time is None else max(float(time - self.time), 0.0)
        fading = math.exp(-passed / self.seconds)
        self.time = time
        for name, values in maps.items():
            sure = certainty(self.tasks[name], values)
            sure = torch.ones_like(values[:, :1]) if sure is None else sure.clamp_min(_LEAST)
            if name not in self.means:
                self.means[name], self.weights[name] = values.clone(), sure
                continue
            self.weights[name] = self.weights[name] * fading + sure
            self.means[name] += (values - self.means[name]) * (sure / self.weights[name])
        return dict(self.means)
