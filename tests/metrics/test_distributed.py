"""Metrics in two processes equal metrics in one."""

import pytest
import torch
from torchmetrics import MeanAbsoluteError

from demt import Task
from demt.metrics import MultiTaskMetrics, ValidPixels
from tests.distributed import run_in_two
from tests.metrics.common import METRICS, case, flat


def _mae(task):
    return ValidPixels(MeanAbsoluteError())


TASKS = {"semseg": 4, "depth": 1, "height": Task(name="height", channels=1, metric=_mae)}


def _single(name, part):
    preds, target = case(name)
    metric = METRICS[name]()
    metric.update(preds[part], target[part])
    return flat(metric.compute())


def _batches():
    """Two batches; the second has labels of one task only."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for labelled in (("semseg", "depth", "height"), ("depth",)):
        channels = {"semseg": 4, "depth": 1, "height": 1}
        outputs = {name: torch.randn(2, c, 6, 6, generator=generator) for name, c in channels.items()}
        targets = {
            "semseg": torch.randint(0, 4, (2, 6, 6), generator=generator),
            "depth": torch.rand(2, 6, 6, generator=generator) + 1,
            "height": torch.rand(2, 6, 6, generator=generator),
        }
        batches.append((outputs, {name: targets[name] for name in labelled}))
    return batches


def _all_tasks(part):
    metrics = MultiTaskMetrics(TASKS)
    for batch in _batches()[part]:
        metrics.update(*batch)
    return metrics.compute()


def _worker(rank):
    part = slice(0, 1) if rank == 0 else slice(1, 3)
    return {
        "single": {name: _single(name, part) for name in METRICS},
        "all": _all_tasks(slice(rank, rank + 1)),
    }


@pytest.fixture(scope="module")
def results():
    return run_in_two(_worker)


@pytest.mark.parametrize("name", METRICS)
def test_single_metrics(results, name):
    for rank in range(2):
        assert results[rank]["single"][name] == pytest.approx(_single(name, slice(None)), rel=1e-12)


def test_all_tasks_when_one_process_has_no_label_of_a_task(results):
    expected = _all_tasks(slice(None))
    assert set(expected) == {"semseg/miou", "depth/rmse", "depth/abs_rel", "depth/delta1", "height/_mae"}
    for rank in range(2):
        assert results[rank]["all"] == pytest.approx(expected, rel=1e-6)
