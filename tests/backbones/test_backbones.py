"""timm's models as feature backbones: timm's own names and methods, and what torch's tools make of them."""

import copy
import gc
import os
import subprocess
import sys
import weakref

import pytest
import timm
import torch
from torch import nn

import demt
from demt.backbones import FeatureBackbone, create_backbone, factory
from tests.conftest import deviation

#: Small ones, one of each kind: swin, hrnet, vit, a pyramid, windows of a fixed size, convolutions only.
NAMES = {
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1)},
    "hrnet_w18_small": {},
    "vit_tiny_patch16_224": {},
    "convnext_atto": {},
    "maxvit_rmlp_pico_rw_256": {"img_size": (64, 64)},
    "mobilenetv4_conv_small": {},
}


@pytest.fixture(scope="module", params=NAMES)
def backbone(request):
    torch.manual_seed(0)
    return create_backbone(request.param, **NAMES[request.param]).eval()


def test_names_and_methods_are_timms(backbone):
    assert isinstance(backbone, FeatureBackbone)
    assert isinstance(backbone, backbone.timm_class)
    assert backbone.timm_class.__module__.startswith("timm.")
    known = timm.create_model(backbone.pretrained_cfg["architecture"]).state_dict()
    ours = {name for name in backbone.state_dict() if not name.startswith(("norm0", "norm1", "norm2", "norm3"))}
    if "hrnet" not in backbone.pretrained_cfg["architecture"]:  # timm builds its features without classifier anew
        assert ours <= set(known)
    assert backbone.group_matcher()
    backbone.train()
    assert all(module.training for module in backbone.modules())
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


def test_copies_give_the_same_numbers_and_share_nothing(backbone):
    images = torch.randn(2, 3, 64, 64)
    copied = copy.deepcopy(backbone)
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in backbone.parameters()}
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(copied(images), backbone(images)))


def test_pickles_load_in_a_process_of_their_own(tmp_path):
    """One whose class this package defines, and one whose class is made when it is first needed."""
    backbones = [create_backbone(n, **NAMES[n]).eval() for n in ("swin_tiny_patch4_window7_224", "convnext_atto")]
    images = torch.randn(2, 3, 64, 64)
    torch.save((backbones, images), tmp_path / "backbones.pt")
    script = (
        "import torch; backbones, images = torch.load('backbones.pt', weights_only=False)\n"
        "with torch.no_grad(): torch.save([b(images) for b in backbones], 'maps.pt')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment)
    with torch.no_grad():
        expected = [b(images) for b in backbones]
    for found, maps in zip(torch.load(tmp_path / "maps.pt"), expected, strict=True):
        assert all(deviation(a, b) < 1e-3 for a, b in zip(found, maps, strict=True))


def test_nothing_keeps_the_model_whose_parts_were_taken(monkeypatch):
    taken = []
    create = timm.create_model
    monkeypatch.setattr(factory.timm, "create_model", lambda *a, **k: taken.append(m := create(*a, **k)) or m)
    backbone = create_backbone("mobilenetv4_conv_small")
    left = weakref.ref(taken.pop())
    gc.collect()
    assert left() is None
    assert backbone(torch.randn(2, 3, 64, 64))[0].shape == (2, 32, 16, 16)


def test_gradient_checkpointing_gives_the_same_gradients():
    for name in ("vit_tiny_patch16_224", "convnext_atto"):
        backbone = create_backbone(name).train()
        images = torch.randn(2, 3, 32, 32)

        def gradients(backbone=backbone, images=images):
            backbone.zero_grad()
            sum(map.square().mean() for map in backbone(images)).backward()
            return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

        expected = gradients()
        backbone.set_grad_checkpointing()
        for got, want in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("name", "patch"), [("vit_small_patch14_dinov2", 14), ("vit_small_patch16_dinov3", 16)])
def test_patches_cover_the_image_and_nothing_else(name, patch):
    """An even image looks the same at every size that takes as many patches; padding would show at two of its sides."""
    backbone = create_backbone(name, depth=4).eval()
    with torch.no_grad():
        whole = backbone(torch.full((1, 3, 5 * patch, 7 * patch), 0.7))
        odd = backbone(torch.full((1, 3, 5 * patch - 9, 6 * patch + 1), 0.7))
    assert backbone.strides == (patch,) * 4
    for one, other in zip(whole, odd, strict=True):
        assert one.shape == (1, 384, 5, 7)
        torch.testing.assert_close(other, one)


def test_dynamic_quantisation_finds_the_linear_layers():
    model = demt.create_model("demt", backbone="vit_tiny_patch16_224", tasks={"depth": 1}, width=32, heads=2).eval()
    assert {type(m) for m in model.backbone.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    assert not any(isinstance(m, nn.Linear) for m in quantised.backbone.modules())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        got, expected = quantised(images)["depth"], model(images)["depth"]
    assert 0 < (got - expected).abs().mean() < 0.5 * expected.std()
