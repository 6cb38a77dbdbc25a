"""How far one file's predictions are from another's, in a measure of each task's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from demt.tasks import Task

#: What a task's difference is, by its activation.
MEASURES = {
    "argmax": "1 - mIoU",
    "foreground": "1 - F",
    "sigmoid": "1 - F",
    "unit": "mean angle / 90°",
    "identity": "RMSE / RMS",
}


def difference(task: Task, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """How far predictions of a task are from the expected ones, over several pictures; 0 for the same.

    Args:
        task: Its activation chooses the measure: for class maps 1 minus the mean over classes of intersection over
            union; for probabilities 1 - 2 Σ min(p, q) / Σ (p + q), that is 1 minus the F-measure of fuzzy masks; for
            unit vectors the mean angle as a part of 90°; for values the RMS of the difference over that of what is
            expected.
        pairs: Expected and actual prediction (see `Task.predict`) of each picture, of one shape.

    Example:
        >>> depth = Task(name="depth", channels=1)
        >>> difference(depth, [(torch.full((1, 2, 2), 2.0), torch.full((1, 2, 2), 2.5))])
        0.25
    """
    if task.activation == "argmax":
        ids = [(expected.long().flatten(), actual.long().flatten()) for expected, actual in pairs]
        counts = torch.zeros(3, task.channels, dtype=torch.float64)
        for expected, actual in ids:
            for row, kept in enumerate((expected[expected == actual], expected, actual)):
                counts[row] += torch.bincount(kept, minlength=task.channels)
        both, union = counts[0], counts[1] + counts[2] - counts[0]
        return 1 - (both[union > 0] / union[union > 0]).mean().item()
    if task.activation == "unit":
        angles = [torch.acos((a.double() * b.double()).sum(1).clamp(-1, 1)).flatten() for a, b in pairs]
        return (torch.rad2deg(torch.cat(angles)).mean() / 90).item()
    expected, actual = (torch.cat([pair[side].double().flatten() for pair in pairs]) for side in (0, 1))
    if task.activation in ("foreground", "sigmoid"):
        total = (expected + actual).sum()
        return (1 - 2 * torch.minimum(expected, actual).sum() / total).item() if total > 0 else 0.0
    return ((actual - expected).square().mean() / expected.square().mean().clamp_min(1e-24)).sqrt().item()


def differences(
    tasks: Mapping[str, Task],
    expected: Sequence[Mapping[str, Tensor]],
    actual: Sequence[Mapping[str, Tensor]],
) -> dict[str, float]:
    """`difference` of every task, of the predictions on several pictures."""
    return {
        name: difference(task, [(one[name], other[name]) for one, other in zip(expected, actual)])
        for name, task in tasks.items()
    }
