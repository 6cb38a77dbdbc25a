"""Models that refine their logits at half the image's size: trained, saved, given other tasks, compiled, exported."""

import pytest
import torch

import demt
from demt.export.write import export
from tests.conftest import deviation, needs_export
from tests.export.test_export import assert_equal_at_other_sizes, needs_onnx


def tiny(family="demt", width=4, **kwargs):
    kwargs = {"tasks": {"semseg": 5, "depth": 1}, **kwargs}
    model = demt.create_model(family, backbone="test_resnet.r160_in1k", width=8, refine_width=width, **kwargs)
    for name, parameter in model.named_parameters():
        if "refinements" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("family", ["demt", "demtg", "degmix", "multitask_baseline", "refined_baseline"])
def test_every_family(family, tmp_path):
    model, images = tiny(family), torch.randn(2, 3, 33, 50)
    sum(logits.square().mean() for logits in model(images).values()).backward()
    assert not [name for name, p in model.head.named_parameters() if p.grad is None]
    model.save_pretrained(tmp_path)
    again = demt.create_model(f"local-dir:{tmp_path}").eval()
    assert again.config == model.config
    assert again.config.refine_width == 4
    with torch.no_grad():
        whole, features = model.eval()(images), model.forward_features(images)
        assert model(images[:1, :, :1, :1])["depth"].shape == (1, 1, 1, 1)
        for task, logits in model.forward_head(features, (33, 50), images).items():
            assert torch.equal(logits, whole[task])
            assert torch.equal(logits, again(images)[task])
        assert model.head(model.backbone(images), images=images)["depth"].shape == (2, 1, 17, 25)
    with pytest.raises(ValueError, match="Expected `images`"):
        model.forward_head(features)


def test_a_trained_model_keeps_its_logits_when_it_is_given_a_refinement():
    plain, refined = tiny(width=None).eval(), tiny().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for refinement in refined.head.refinements.values():
            refinement.logits.weight.zero_(), refinement.logits.bias.zero_()
        missing, unexpected = refined.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected
        assert all(name.startswith(("head.details.", "head.refinements.")) for name in missing)
        levels = plain.backbone(images)
        coarse, fine = plain.head(levels), refined.head(levels, images=images)
    for task in plain.tasks:
        torch.testing.assert_close(fine[task], torch.nn.functional.interpolate(coarse[task], (32, 32), mode="bilinear"))


def test_other_tasks_keep_what_stays():
    model = tiny()
    depth, semseg = model.head.refinements["depth"], model.head.refinements["semseg"]
    model.reset_heads({"depth": 1, "semseg": 7, "edge": 1})
    refinements = model.head.refinements
    assert list(refinements) == ["depth", "semseg", "edge"]
    assert refinements["depth"] is depth
    assert refinements["semseg"].conv is semseg.conv
    assert refinements["semseg"].out_channels == 7
    assert model(torch.randn(2, 3, 32, 32))["semseg"].shape == (2, 7, 32, 32)


def test_saved_weights_for_other_tasks(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    other = demt.create_model(f"local-dir:{tmp_path}", tasks={"edge": 1, "semseg": 7})
    was, now = model.head.refinements["semseg"], other.head.refinements["semseg"]
    assert torch.equal(now.conv.weight, was.conv.weight)
    assert now.logits.weight.shape[0] == 7
    assert torch.equal(other.head.details.layers[0].weight, model.head.details.layers[0].weight)
    assert list(other.head.refinements) == ["edge", "semseg"]


def test_checkpointing_and_fusing_give_the_same_numbers():
    model, images = tiny(), torch.randn(2, 3, 48, 40)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(checkpointing)
        sum(logits.square().mean() for logits in model(images).values()).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients)
    model.eval()
    fused = demt.fuse(model)
    assert not [m for m in fused.head.refinements.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for task, logits in fused(images).items():
            assert deviation(logits, model(images)[task]) < 1e-4


def test_compile():
    model, images = tiny().eval(), torch.randn(1, 3, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
    for task in expected:
        assert deviation(compiled[task], expected[task]) < 1e-4


@needs_export
@needs_onnx
@pytest.mark.slow
def test_onnx(tmp_path):
    model = tiny().eval()
    export(model, tmp_path / "model.onnx")
    assert_equal_at_other_sizes(tmp_path / "model.onnx", model)
