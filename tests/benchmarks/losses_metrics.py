"""Time of losses and metrics over that of plain references in the same run, and largest difference of their results.

python tests/benchmarks/losses_metrics.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from demt.losses import MultiTaskLoss, balanced_bce, cross_entropy
from demt.metrics.functional import confusion_matrix, threshold_counts

SIZE = (2, 425, 560)


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(name: str, ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> None:
    """Print the ratio of times and the difference of results."""
    difference = (ours().double() - plain().double()).abs().max().item()
    fast, slow = seconds(ours), seconds(plain)
    print(f"{name:40s} {1e3 * fast:8.1f} ms   {fast / slow:5.2f} x plain   difference {difference:.1e}")


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Gradient of the loss at the logits."""
    leaf = logits.detach().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def loop_counts(preds: Tensor, target: Tensor, thresholds: Tensor) -> Tensor:
    """One pass a threshold."""
    valid = target != 255
    p, positive = preds[valid], target[valid] == 1
    rows = [((p >= t) & positive, p >= t, positive) for t in thresholds]
    return torch.tensor([[mask.sum() for mask in row] for row in rows]).T


def main() -> None:
    """Print one line a comparison."""
    torch.manual_seed(0)
    logits, target = torch.randn(SIZE[0], 40, *SIZE[1:]), torch.randint(0, 40, SIZE)
    target[torch.rand(SIZE) < 0.2] = 255
    report(
        "cross_entropy, with gradient",
        lambda: gradient(lambda x: cross_entropy(x, target), logits),
        lambda: gradient(lambda x: F.cross_entropy(x, target, ignore_index=255), logits),
    )
    edges, truth = torch.randn(SIZE[0], 1, *SIZE[1:]), (torch.rand(SIZE) < 0.1).float()
    report(
        "balanced_bce, with gradient",
        lambda: gradient(lambda x: balanced_bce(x, truth, pos_weight=0.8), edges),
        lambda: gradient(
            lambda x: F.binary_cross_entropy_with_logits(x[:, 0], truth, pos_weight=torch.tensor(4.0)) * 0.2, edges
        ),
    )
    checked, unchecked = MultiTaskLoss({"semseg": 40}), MultiTaskLoss({"semseg": 40}, validate=False)
    report(
        "MultiTaskLoss, validate over not",
        lambda: gradient(lambda x: checked({"semseg": x}, {"semseg": target}).total, logits),
        lambda: gradient(lambda x: unchecked({"semseg": x}, {"semseg": target}).total, logits),
    )
    thresholds = torch.arange(1, 20) / 20
    report(
        "threshold_counts, 19 thresholds",
        lambda: threshold_counts(edges[:, 0].sigmoid(), truth, thresholds=thresholds),
        lambda: loop_counts(edges[:, 0].sigmoid(), truth, thresholds),
    )
    preds = logits.argmax(1)
    reference = MulticlassJaccardIndex(40, ignore_index=255, validate_args=False)

    def reference_confusion() -> Tensor:
        reference.reset()
        reference.update(preds, target)
        return reference.confmat

    report(
        "confusion_matrix over torchmetrics'",
        lambda: confusion_matrix(preds, target, num_classes=40),
        reference_confusion,
    )


if __name__ == "__main__":
    main()
