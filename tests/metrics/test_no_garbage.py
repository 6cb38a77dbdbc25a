"""No score is made of NaN, of labels that are none, or of another metric's settings."""

import math

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from demt.metrics import (
    BoundaryScore,
    DepthMetrics,
    EdgeMetrics,
    MaxF,
    MeanIoU,
    MultiTaskMetrics,
    NormalsMetrics,
    RootMeanSquaredError,
)
from demt.metrics.functional import boundary_counts, boundary_scores
from demt.tasks import DATASETS

TASKS = DATASETS["rooms"]


def batch():
    generator = torch.Generator().manual_seed(0)
    outputs, labels = {}, {}
    for name, task in TASKS.items():
        outputs[name] = torch.randn(2, task.channels, 12, 16, generator=generator)
        labels[name] = torch.randint(0, min(task.channels, 2), (2, 1, 12, 16), generator=generator).float()
    labels["depth"] += 1
    labels["normals"] = torch.nn.functional.normalize(outputs["normals"].roll(1, 3), dim=1)
    return outputs, labels


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", TASKS)
def test_logits_that_are_not_finite(name, validate, value):
    outputs, labels = batch()
    outputs[name][1, 0, 3, 4] = value
    metrics = MultiTaskMetrics(TASKS, dataset="pascal", validate=validate)
    with pytest.raises(ValueError, match=f"Task '{name}'"):  # noqa: PT012
        metrics.update(outputs, labels)
        metrics.update(*batch())
        metrics.compute()
    metrics.reset()
    metrics.update(*batch())
    assert all(math.isfinite(value) for value in metrics.compute().values())


@pytest.mark.parametrize(
    ("metric", "preds", "target"),
    [
        (MeanIoU(3), torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2)),
        (MeanIoU(3), torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 3)),
        (MaxF(), torch.full((1, 2, 2), 1.5), torch.ones(1, 2, 2)),
        (MaxF(), torch.full((1, 2, 2), math.nan), torch.ones(1, 2, 2)),
        (DepthMetrics(), torch.full((1, 2, 2), math.nan), torch.ones(1, 2, 2)),
        (DepthMetrics(), torch.ones(1, 2, 2), torch.full((1, 2, 2), math.nan)),
        (DepthMetrics(), torch.ones(1, 2, 2), torch.full((1, 2, 2), -1.0)),
        (RootMeanSquaredError(), torch.ones(1, 2, 2), torch.full((1, 2, 2), math.inf)),
        (NormalsMetrics(), torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 1 / 255)),
        (NormalsMetrics(), torch.full((1, 3, 2, 2), math.nan), torch.eye(3)[0].view(1, 3, 1, 1).expand(1, 3, 2, 2)),
        (EdgeMetrics(max_distance=0.1), torch.full((1, 9, 9), math.nan), torch.ones(1, 9, 9)),
        (EdgeMetrics(max_distance=0.1), torch.ones(1, 9, 9), torch.full((1, 9, 9), 2.0)),
        (EdgeMetrics(max_distance=0.1), torch.ones(1, 9, 9), torch.full((1, 9, 9), math.nan)),
    ],
)
def test_values_out_of_range_are_errors(metric, preds, target):
    with pytest.raises(ValueError, match=r"expected|Expected|NaN"):
        metric.update(preds, target)


def test_soft_edges_are_boundaries_from_one_half_on():
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(1, 40, 60, generator=generator) ** 4
    soft[0, :5] = 255
    preds = torch.rand(1, 40, 60, generator=generator)
    metric = MultiTaskMetrics({"edge": 1}, dataset="pascal")
    metric.update({"edge": preds.logit()[:, None]}, {"edge": soft})
    hard = MultiTaskMetrics({"edge": 1}, dataset="pascal")
    hard.update({"edge": preds.logit()[:, None]}, {"edge": torch.where(soft == 255, 255, (soft >= 0.5).float())})
    assert metric.compute() == hard.compute()
    raw = EdgeMetrics(max_distance=0.02, nms=None, gt="raw")
    raw.update(preds, soft)
    counts = boundary_counts(
        preds[0, 5:], (soft[0, 5:] >= 0.5).numpy(), max_distance=0.02, thresholds=np.arange(1, 100) / 100, quantize=True
    )
    assert raw.compute()["odsF"] == pytest.approx(boundary_scores([counts], np.arange(1, 100) / 100).ods)


def test_a_task_without_labels_has_no_results():
    outputs, labels = batch()
    labels["depth"][:] = 255
    del labels["edge"]
    metrics = MultiTaskMetrics(TASKS, dataset="pascal")
    metrics.update(outputs, labels)
    with pytest.warns(UserWarning, match="No labelled pixel of depth, edge: there are no results of that"):
        results = metrics.compute()
    assert {key.split("/")[0] for key in results} == set(TASKS) - {"depth", "edge"}
    whole = MultiTaskMetrics({name: task for name, task in TASKS.items() if name not in ("depth", "edge")})
    whole.update(outputs, labels)
    assert whole.compute() == results
    assert "semseg" in str(metrics)


@pytest.mark.parametrize(
    ("kind", "settings", "others"),
    [
        (MeanIoU, {"num_classes": 3}, {"num_classes": 3, "ignore_index": 0}),
        (DepthMetrics, {}, {"ignore_index": 1}),
        (RootMeanSquaredError, {}, {"ignore_index": 1}),
        (NormalsMetrics, {}, {"ignore_index": 1}),
        (MaxF, {}, {"ignore_index": 0}),
        (MaxF, {"thresholds": [0.3, 0.6]}, {"thresholds": [0.4, 0.8]}),
        (MaxF, {}, {"second_sigmoid": True}),
        (BoundaryScore, {"max_distance": 0.01}, {"max_distance": 0.2}),
        (BoundaryScore, {"max_distance": 0.01}, {"max_distance": 0.01, "gt": "seism"}),
        (BoundaryScore, {"max_distance": 0.01}, {"max_distance": 0.01, "quantize": False}),
    ],
)
def test_a_collection_keeps_metrics_of_other_settings_apart(kind, settings, others):
    """Its compute groups take metrics whose states are equal after the first batch for one."""
    collection = MetricCollection({"one": kind(**settings), "other": kind(**others), "same": kind(**settings)})
    # In this batch the settings make no difference, so that sums and counts stay equal.
    label = {MeanIoU: [1.0], MaxF: [1.0], BoundaryScore: [0.0], NormalsMetrics: [0.6, 0.8, 0.0]}.get(kind, [2.0])
    target = torch.tensor(label).view(1, -1, 1, 1).expand(1, -1, 9, 9)
    target = target if kind is NormalsMetrics else target[:, 0]
    preds = torch.zeros(target.shape, dtype=torch.long if kind is MeanIoU else torch.float)
    collection.update(preds, target)
    groups = sorted(sorted(group) for group in collection.compute_groups.values())
    assert groups == [["one", "same"], ["other"]]
