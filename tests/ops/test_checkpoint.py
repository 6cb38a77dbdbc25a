"""Gradient checkpointing changes no number: gradients and running statistics are those of a plain step."""

import copy

import pytest
import torch
from torch import nn

import demt


def _step(model, images):
    torch.manual_seed(1)
    model.zero_grad()
    sum(maps.square().mean() for maps in model(images).values()).backward()


@pytest.mark.parametrize("backbone", ["test_vit.r160_in1k", "test_resnet.r160_in1k", "test_efficientnet.r160_in1k"])
def test_running_statistics_see_a_batch_once(backbone):
    torch.manual_seed(0)
    options = {"tasks": {"semseg": 3, "depth": 1}, "width": 16, "pretrained_backbone": False}
    plain = demt.create_model("degmix", backbone=backbone, **options).train()
    # Frozen norms must stay frozen.
    next(m for m in plain.head.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    for _ in range(2):
        images = torch.randn(2, 3, 64, 64)
        _step(plain, images)
        _step(saving, images)
        for name, value in plain.state_dict().items():
            assert torch.equal(saving.state_dict()[name], value), name
        for (name, mine), theirs in zip(plain.named_parameters(), saving.parameters()):
            assert torch.equal(mine.grad, theirs.grad), name
    counted = {m.num_batches_tracked.item() for m in saving.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counted == {0, 2}


def test_a_frozen_backbone(monkeypatch):
    model = demt.create_model("degmix", backbone="test_resnet.r160_in1k", tasks={"depth": 1}, width=16).train()
    model.backbone.requires_grad_(False)
    model.set_grad_checkpointing()
    _step(model, torch.randn(2, 3, 64, 64))
    assert model.backbone.bn1.num_batches_tracked == 1
