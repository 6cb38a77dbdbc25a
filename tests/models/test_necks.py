"""Models with each neck: on a pyramid and a plain ViT, saved, compiled and exported."""

from typing import get_args

import pytest
import torch

import demt
from demt.config import NeckName
from demt.export.write import export
from demt.layers import NECKS
from demt.models.variants import FAMILIES
from tests.conftest import deviation, needs_export
from tests.export.test_export import assert_equal_at_other_sizes, needs_onnx

PYRAMID, PLAIN = "test_resnet.r160_in1k", "test_vit.r160_in1k"
OTHERS = ("fpn", "ppm", "fapn", "dpt")


def tiny(neck, family="demt", backbone=PYRAMID):
    return demt.create_model(family, backbone=backbone, tasks={"semseg": 5, "depth": 1}, width=8, neck=neck)


def lively(model):
    """Offsets that are not zero."""
    for name, parameter in model.named_parameters():
        if "neck.offsets" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("neck", "backbone", "family"),
    # Each family in turn: none of them has a neck's name in its code.
    [
        (neck, backbone, list(FAMILIES)[(i + j) % len(FAMILIES)])
        for i, neck in enumerate(get_args(NeckName))
        for j, backbone in enumerate((PYRAMID, PLAIN))
    ],
)
def test_every_neck_on_every_kind_of_backbone(neck, backbone, family, tmp_path):
    model = tiny(neck, family, backbone)
    assert type(model.head.neck) is NECKS[neck]
    images = torch.randn(2, 3, 33, 50)
    sum(logits.square().mean() for logits in model(images).values()).backward()
    assert not [name for name, p in model.head.named_parameters() if p.grad is None]
    model.save_pretrained(tmp_path)
    again = demt.create_model(f"local-dir:{tmp_path}").eval()
    assert again.config == model.config
    with torch.no_grad():
        assert model.eval()(images[:1, :, :1, :1])["depth"].shape == (1, 1, 1, 1)
        assert torch.equal(again(images)["depth"], model(images)["depth"])


@pytest.mark.parametrize("backbone", [PYRAMID, PLAIN, "vit_small_patch14_dinov2"])
def test_dpt_gives_four_times_the_taps_or_the_finest_level(backbone):
    """From strides 16 and 14 to about 4, where a pyramid begins."""
    config = demt.ModelConfig(family="demt", backbone=backbone, tasks={"depth": 1}, width=8, neck="dpt")
    model = demt.MultiTaskModel.outline(config, "a test")
    strides = model.backbone.strides
    levels = [torch.empty(1, c, 64 // s, 64 // s, device="meta") for c, s in zip(model.backbone.channels, strides)]
    assert model.head.neck(levels).shape[-2:] == ((16, 16) if strides[0] in (4, 16) else (4 * (64 // 14),) * 2)


@pytest.mark.parametrize("neck", OTHERS)
def test_compile(neck):
    model = lively(tiny(neck))
    images = torch.randn(1, 3, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        levels = model.backbone(images)
        expected = model.head.neck(levels)
        compiled = torch.compile(model.head.neck, fullgraph=True, backend="aot_eager")(levels)
    assert deviation(compiled, expected) < 1e-4


@needs_export
@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("neck", OTHERS)
def test_onnx(neck, tmp_path):
    model = lively(tiny(neck, "multitask_baseline"))
    export(model, tmp_path / "model.onnx")
    assert_equal_at_other_sizes(tmp_path / "model.onnx", model)
