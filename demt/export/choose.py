"""Which layers of a file compute in 8 bits, so that no task loses more than it may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from demt.export.agreement import differences
from demt.export.capture import ExportError
from demt.export.formats import onnx_runner
from demt.tasks import Task

#: Neighbouring layers that are tried together.
GROUPS = 12


class Judge:
    """How far files are from the float32 file on some pictures, task by task.

    Args:
        tasks: Of the model.
        contents: The float32 file.
        images: The pictures, as arrays (1, channels, height, width).
        predictions: Whether the file gives predictions instead of logits.
    """

    def __init__(self, tasks: Mapping[str, Task], contents: bytes, images: Sequence[Any], predictions: bool) -> None:
        self.tasks, self.images, self.predictions = tasks, images, predictions
        self.expected = self._run(contents)

    def measure(self, contents: bytes) -> dict[str, float]:
        """The difference of every task (see `demt.export.agreement`)."""
        return differences(self.tasks, self.expected, self._run(contents))

    def _run(self, contents: bytes) -> list[dict[str, Tensor]]:
        run, results = onnx_runner(contents), []
        for image in self.images:
            outputs = run(torch.from_numpy(image))
            if not self.predictions:
                outputs = {name: self.tasks[name].predict(maps) for name, maps in outputs.items()}
            results.append(outputs)
        return results


def choose(
    layers: Sequence[str], measure: Callable[[Sequence[str]], Mapping[str, float]], bounds: Mapping[str, float]
) -> list[str]:
    """The layers to have in 8 bits: as many as keep every task within its bound.

    Neighbours are tried together, a group by itself; the groups that hurt least are then taken together.

    Args:
        layers: All that could be, in the order of the graph.
        measure: The differences of the tasks with some layers in 8 bits.
        bounds: What they may be.

    Raises:
        ExportError: if not even one group keeps the bounds.
    """

    def worst(found: Mapping[str, float]) -> float:
        return max(value / bounds[name] for name, value in found.items())

    everything = measure(layers)
    if worst(everything) <= 1:
        return list(layers)
    length = max(-(-len(layers) // GROUPS), 1)
    groups = [layers[start : start + length] for start in range(0, len(layers), length)]
    groups.sort(key=lambda group: worst(measure(group)))
    best: list[str] = []
    low, high = 1, len(groups)
    while low < high:
        count = (low + high) // 2
        chosen = [name for group in groups[:count] for name in group]
        if worst(measure(chosen)) <= 1:
            best, low = chosen, count + 1
        else:
            high = count
    if not best:
        hurt = max(everything, key=lambda name: everything[name] / bounds[name])
        raise ExportError(
            f"No layers can be in 8 bits within the bound: with all of them {hurt} differs from float32 by "
            f"{everything[hurt]:.1%}, more than {bounds[hurt]:.1%}; allow more, or take pictures more like those the "
            "model was trained on; nothing was written"
        )
    return best
