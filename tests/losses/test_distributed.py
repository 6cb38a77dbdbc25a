"""Losses in two processes."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from demt.losses import DynamicWeightAverage, MultiTaskLoss
from tests.distributed import run_in_two

TASKS = {"semseg": 4, "depth": 1}


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.heads = nn.ModuleDict({"semseg": nn.Conv2d(8, 4, 1), "depth": nn.Conv2d(8, 1, 1)})

    def forward(self, images):
        features = self.trunk(images).relu()
        return {name: head(features) for name, head in self.heads.items()}


def _labels(rank):
    """Two steps: process 1 lacks the label of semseg in the first and has an ignored map in the second."""
    generator = torch.Generator().manual_seed(rank)
    semseg = torch.randint(0, 4, (2, 8, 8), generator=generator)
    depth = torch.rand(2, 1, 8, 8, generator=generator)
    if rank == 0:
        return [{"semseg": semseg, "depth": depth}] * 2
    return [{"depth": depth}, {"semseg": torch.full_like(semseg, 255), "depth": depth}]


def _images(rank):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(rank))


def _gradients(model, criterion, rank):
    steps = []
    for targets in _labels(rank):
        model.zero_grad()
        criterion.zero_grad()
        criterion(model(_images(rank)), targets).total.backward()
        steps.append([p.grad.clone() for p in [*model.parameters(), *criterion.parameters()]])
    return steps


EPOCHS = [
    [([4.0, 2.0], [True, True]), ([2.0, 2.0], [True, True])],
    [([1.0, 3.0], [True, True]), ([2.0, 0.0], [True, False])],
]


def _dwa_weights(part):
    balancer = DynamicWeightAverage([1.0, 1.0])
    for epoch in EPOCHS:
        for losses, present in epoch[part]:
            balancer(torch.tensor(losses), torch.tensor(present))
        balancer.step_epoch()
    return balancer.task_weights()


def _worker(rank):
    model = DistributedDataParallel(_Net(), find_unused_parameters=False)
    criterion = DistributedDataParallel(MultiTaskLoss(TASKS, balancing="uncertainty"), find_unused_parameters=False)
    return {"gradients": _gradients(model, criterion, rank), "dwa": _dwa_weights(slice(rank, rank + 1))}


@pytest.fixture(scope="module")
def results():
    return run_in_two(_worker)


def test_ddp_trains_with_a_label_missing_on_one_process(results):
    alone = [_gradients(_Net(), MultiTaskLoss(TASKS, balancing="uncertainty"), rank) for rank in range(2)]
    for rank in range(2):
        for step in range(2):
            for got, zero, one in zip(results[rank]["gradients"][step], alone[0][step], alone[1][step]):
                torch.testing.assert_close(got, (zero + one) / 2)


def test_dwa_of_two_processes_equals_one(results):
    expected = _dwa_weights(slice(None))
    assert expected[0] != 1
    for rank in range(2):
        torch.testing.assert_close(results[rank]["dwa"], expected)
