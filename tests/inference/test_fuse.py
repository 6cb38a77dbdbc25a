import copy
import pickle

import pytest
import torch
from torch import nn

import demt
from demt.inference.fuse import FusedModel
from demt.layers import TaskHead

FUSED = ["demt_nano", "demtg_nano", "degmix_nano", "multitask_baseline_nano", "refined_baseline_nano"]


def shaken(model):
    """Normalisation layers that do something, so that folding them can go wrong."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean):
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model.eval()


def check(model, size=(61, 75)):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = demt.fuse(model)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected, got = model(images), fused(images)
    for name, value in expected.items():
        assert (got[name] - value).abs().max() < 1e-3 * value.std()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return fused


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("mode", ["released", "paper"])
def test_same_numbers(name, mode):
    modes = {} if mode == "released" or "baseline" in name else {"interaction": "global", "query": "global"}
    fused = check(shaken(demt.create_model(name, tasks={"semseg": 5, "depth": 1}, **modes)))
    assert not any(isinstance(m.norm, nn.BatchNorm2d) for m in fused.modules() if isinstance(m, TaskHead))
    assert not any(p.requires_grad for p in fused.parameters())


@pytest.mark.parametrize("backbone", ["hrnet_w18_small_v2.ms_in1k", "resnet18.a1_in1k", "vit_tiny_patch16_224"])
def test_backbones_and_necks(backbone):
    model = shaken(demt.create_model("degmix", backbone=backbone, tasks={"depth": 1}, width=32, head_width=16))
    fused = check(model, (64, 96))
    if "hrnet" in backbone or "resnet" in backbone:
        count = lambda m: sum(isinstance(each, nn.BatchNorm2d) for each in m.backbone.modules())  # noqa: E731
        assert count(fused) < 0.2 * count(model)


def test_every_module_keeps_its_mode():
    """Frozen batch norms stay frozen in a model that trains."""
    model = demt.create_model("degmix_nano", tasks={"depth": 1}).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    fused = demt.fuse(model)
    assert [module.training for module in model.modules()] == before
    assert not any(module.training for module in fused.modules())


def test_a_fused_model_is_built_not_turned():
    model = demt.create_model("demt_nano", tasks={"depth": 1})
    fused = demt.fuse(model)
    assert type(model) is demt.MultiTaskModel
    assert type(pickle.loads(pickle.dumps(fused))) is type(fused) is FusedModel
    assert {type(m) for m in fused.head.modules()} <= {*(type(m) for m in model.head.modules()), nn.Identity}


def test_fewer_operations():
    model = demt.create_model("degmix_nano", tasks={"depth": 1})
    count = lambda m: sum(p.numel() for p in m.head.parameters())  # noqa: E731
    assert count(demt.fuse(model)) < count(model)


def test_it_says_what_a_fused_model_cannot_do(tmp_path):
    fused = demt.fuse(demt.create_model("demt_nano", tasks={"depth": 1}))
    assert fused.eval() is fused
    for attempt in (
        fused.train,
        lambda: fused.save_pretrained(tmp_path),
        lambda: fused.reset_heads({"edge": 1}),
        lambda: demt.fuse(fused),
    ):
        with pytest.raises(ValueError, match=r"fused"):
            attempt()
    assert not list(tmp_path.iterdir())
    assert copy.deepcopy(fused)(torch.randn(1, 3, 64, 64))["depth"].shape == (1, 1, 64, 64)
    with pytest.raises(ValueError, match="demt model"):
        demt.fuse(nn.Linear(2, 2))


def test_predicts_and_compiles_and_exports():
    fused = demt.fuse(demt.create_model("demt_nano", tasks={"depth": 1}))
    assert demt.predict(fused, torch.rand(3, 64, 96))["depth"].shape == (64, 96)
    images = torch.randn(1, 3, 64, 96)
    program = torch.export.export(fused, (images,))
    torch.testing.assert_close(program.module()(images)["depth"], fused(images)["depth"], atol=1e-4, rtol=1e-4)


def test_a_backbone_that_folds_wrongly_is_refused():
    class Odd(nn.Module):
        """A convolution and a batch norm that are named as a pair, but are none."""

        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32)

        def forward(self, x):
            return self.conv1(self.bn1(x))

    model = demt.create_model("multitask_baseline_nano", tasks={"depth": 1})
    odd = Odd()
    width = model.backbone.conv_stem.out_channels
    odd.conv1, odd.bn1 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
    model.backbone.conv_stem = nn.Sequential(model.backbone.conv_stem, odd)
    with pytest.raises(ValueError, match="depth"):
        demt.fuse(shaken(model))
