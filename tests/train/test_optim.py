"""Learning rates of parts of a model."""

import pytest
import torch
from torch import nn

import demt
from demt.train.optim import make_optimizer, make_schedule
from demt.train.recipe import OptimPart


def tiny():
    return demt.create_model("demt", backbone="test_resnet.r160_in1k", tasks={"semseg": 3, "depth": 1}, width=8)


def rates(optimizer):
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_factors_scale_what_their_names_begin_and_nothing_else(layer_decay):
    model, options = tiny(), {"lr": 0.01, "schedule": "constant", "layer_decay": layer_decay}
    factors = {"head": 3, "head.heads.depth": 10, "backbone.conv1": 0.1}
    found = []
    for part in (OptimPart(**options), OptimPart(**options, lr_factors=factors)):
        optimizer = make_optimizer(model, nn.Identity(), part)
        make_schedule(optimizer, part, 10).step_update(5)
        found.append(rates(optimizer))
        decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        found.append(decayed)
    usual, usual_decay, scaled, scaled_decay = found
    assert usual_decay == scaled_decay
    assert len(scaled) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        factor = 10 if "heads.depth." in name else 3 if name.startswith("head.") else 0.1 if "conv1" in name else 1
        if name.startswith("backbone.layer"):
            factor = 1
        assert scaled[id(parameter)] == pytest.approx(factor * usual[id(parameter)]), name


def test_factors_change_the_steps():
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, nn.Identity(), OptimPart(name="sgd", lr=0.1, lr_factors={"head.neck": 2}))
    make_schedule(optimizer, OptimPart(lr=0.1, schedule="constant"), 10)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {
        name: float((before[name] - p.detach()).flatten()[0]) for name, p in model.named_parameters() if p.ndim == 1
    }
    assert moved["head.neck.norm.bias"] == pytest.approx(2 * moved["head.interaction.norm.bias"])


def test_parts_that_the_model_lacks():
    with pytest.raises(ValueError, match=r"`optim.lr_factors` to name parts .*'head.heads'.*got 'head.head'"):
        make_optimizer(tiny(), nn.Identity(), OptimPart(lr_factors={"head.head": 10}))
    with pytest.raises(ValueError, match=r"lr_factors"):
        OptimPart(lr_factors={"head": 0})
