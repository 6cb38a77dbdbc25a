"""Models that refine their logits at half the image's size: trained, saved, given other tasks, compiled, exported."""

import pytest
import torch

import demt
from demt.export.write import export
from tests.conftest import deviation, needs_export
from tests.export.test_export import assert_equal_at_other_sizes, needs_onnx

OWN = {"depth": (2, 4)}


def tiny(family="demt", width=4, **kwargs):
    kwargs = {"tasks": {"semseg": 5, "depth": 1}, **kwargs}
    kwargs = {"backbone": "test_resnet.r160_in1k", **kwargs}
    model = demt.create_model(family, **{"width": 8, "refine_width": width, **kwargs})
    for name, parameter in model.named_parameters():
        if "refinements" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("stages", [{}, OWN, {"semseg": (1, 3), "depth": (3, 6)}])
@pytest.mark.parametrize("family", ["demt", "demtg", "degmix", "multitask_baseline", "refined_baseline"])
def test_every_family(family, stages, tmp_path):
    model, images = tiny(family, refine_stages=stages), torch.randn(2, 3, 33, 50)
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


@pytest.mark.parametrize("stages", [{}, OWN])
def test_a_trained_model_keeps_its_logits_when_it_is_given_a_refinement(stages):
    plain, refined = tiny(width=None).eval(), tiny(refine_stages=stages).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for refinement in refined.head.refinements.values():
            refinement.logits.weight.zero_(), refinement.logits.bias.zero_()
        missing, unexpected = refined.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected
        assert all(name.startswith(("head.details.", "head.encoders.", "head.refinements.")) for name in missing)
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


def test_stages_of_its_own():
    model, images = tiny(refine_stages=OWN), torch.randn(2, 3, 64, 32)
    encoder, stages = model.head.encoders["depth"], model.head.encoders["depth"].stages
    assert not {*map(id, stages.parameters())} & {*map(id, model.backbone.parameters())}
    assert not [name for name in stages.state_dict() if name.startswith(("layer2", "layer3", "layer4", "fc"))]
    for name, value in stages.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name])
    model.eval()
    with torch.no_grad():
        finest, coarser = stages(images)
        # The backbone's own finest map is that of stride 4.
        torch.testing.assert_close(coarser, model.backbone(images)[0])
        assert encoder(images).shape == (2, 4, 32, 16) == (2, 4, *finest.shape[2:])
        before = model(images)
        next(stages.parameters()).add_(1)
        after = model(images)
    assert torch.equal(before["semseg"], after["semseg"])
    assert not torch.equal(before["depth"], after["depth"])


def test_stages_follow_the_tasks(tmp_path):
    model = tiny(refine_stages=OWN)
    model.save_pretrained(tmp_path)
    encoder = model.head.encoders["depth"]
    other = demt.create_model(f"local-dir:{tmp_path}", tasks={"depth": 1, "edge": 1})
    assert other.config.refine_stages == OWN
    for name, value in other.head.encoders.state_dict().items():
        assert torch.equal(value, model.head.encoders.state_dict()[name])
    alone = demt.create_model(f"local-dir:{tmp_path}", tasks={"depth": 1})
    assert not list(alone.head.details.parameters())
    alone.save_pretrained(tmp_path / "alone")
    again = demt.create_model(f"local-dir:{tmp_path / 'alone'}", tasks={"depth": 1, "edge": 1})
    assert list(again.head.details.parameters())
    without = demt.create_model(f"local-dir:{tmp_path}", tasks={"edge": 1})
    assert without.config.refine_stages == {}
    model.reset_heads({"edge": 1, "depth": 1})
    assert model.head.encoders["depth"] is encoder
    model.reset_heads({"edge": 1})
    assert not model.head.encoders
    assert model.config.refine_stages == {}
    model(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("stages", [{}, OWN])
@pytest.mark.parametrize("chans", [1, 5])
def test_saved_weights_for_other_images(chans, stages, tmp_path):
    model = tiny(refine_stages=stages).eval()
    model.save_pretrained(tmp_path)
    other = demt.create_model(f"local-dir:{tmp_path}", in_chans=chans).eval()
    if chans == 1:
        grey = torch.randn(1, 1, 32, 48)
        with torch.no_grad():
            for task, logits in other(grey).items():
                torch.testing.assert_close(logits, model(grey.expand(-1, 3, -1, -1))[task])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"refine_stages": {"edge": (2, 4)}},
            r"of the tasks \['semseg', 'depth'\], got 'edge'",
        ),
        ({"refine_stages": {"depth": (5, 4)}}, "stages in `refine_stages` entry 'depth'"),
        ({"refine_stages": {"depth": [2, 0]}}, "channels in `refine_stages` entry 'depth'"),
        ({"refine_stages": {"depth": 2}}, "entry 'depth' to be numbers of stages and channels, got 2"),
        ({"refine_stages": 2}, "to be a mapping of tasks to pairs, got 2"),
        ({"refine_stages": OWN, "refine_width": None}, "Expected a `refine_width` with `refine_stages`"),
        ({"refine_stages": OWN, "backbone": "hrnet_w18_small"}, "from stride 2 on; 'hrnet_w18_small' has none"),
        ({"refine_stages": OWN, "backbone": "convnext_atto"}, r"at strides \(2, 4\); 'convnext_atto' has"),
    ],
)
def test_bad_stages(arguments, said):
    with pytest.raises(ValueError, match=said):
        tiny(**arguments)


@pytest.mark.parametrize("stages", [{}, OWN])
def test_checkpointing_and_fusing_give_the_same_numbers(stages):
    model, images = tiny(refine_stages=stages), torch.randn(2, 3, 48, 40)
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


@pytest.mark.parametrize("stages", [{}, OWN])
def test_compile(stages):
    model, images = tiny(refine_stages=stages).eval(), torch.randn(1, 3, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
    for task in expected:
        assert deviation(compiled[task], expected[task]) < 1e-4


@needs_export
@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("stages", [{}, OWN])
def test_onnx(stages, tmp_path):
    model = tiny(refine_stages=stages).eval()
    export(model, tmp_path / "model.onnx")
    assert_equal_at_other_sizes(tmp_path / "model.onnx", model)
