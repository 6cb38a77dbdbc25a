"""Every registered name: builds, runs at any size, gives every parameter a gradient, and comes back from a folder."""

import copy
import pickle

import pytest
import timm.optim
import torch

import demt
from demt.models.variants import BACKBONES, DINO, FAMILIES
from demt.models.variants import SMALL as SMALL_BACKBONES
from tests.conftest import deviation

NAMES = demt.list_models()
SMALL = [n for n in NAMES if n.endswith(("nano", "swin_tiny", "hrnet_w18"))] + ["degmix_vit_base", "demt_lite"]


def test_the_table_is_complete():
    names = [f"{family}_{b}" for family in FAMILIES for b in [*BACKBONES, *DINO, *SMALL_BACKBONES]]
    assert sorted([*names, "demt_swin_tiny_depth2"]) == NAMES
    assert demt.is_model("degmix_swin_tiny.nyud_tuning")
    assert not demt.is_model("demt_swin_tiny.nyud_tuning")
    for name in NAMES:
        for tag in ("nyud", "pascal", "cityscapes"):
            assert demt.is_model(f"{name}.{tag}")


def _in_both_runs():
    """Large backbones run with one family each; with the other families they take minutes."""
    families, backbones = list(FAMILIES), [*BACKBONES, *DINO]
    for name in NAMES:
        backbone = next((b for b in backbones if name.removesuffix("_depth2").endswith(b)), "small")
        quick = backbone in ("small", "swin_tiny", "hrnet_w18")
        quick = quick or (
            backbone != "dinov2_base" and name.startswith(f"{families[backbones.index(backbone) % len(families)]}_")
        )
        yield pytest.param(name, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize("name", list(_in_both_runs()))
def test_every_name(name, tmp_path):
    model = demt.create_model(f"{name}.nyud")
    model.train()
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(logits.square().mean() for logits in outputs.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    model.eval().zero_grad()
    with torch.no_grad():
        for size in ((65, 97), (1, 1)):
            outputs = model(torch.randn(1, 3, *size))
            assert list(outputs) == list(model.tasks) == ["semseg", "depth", "normals", "edge"]
            for task, logits in outputs.items():
                assert logits.shape == (1, model.tasks[task].channels, *size)
                assert torch.isfinite(logits).all()
        model.save_pretrained(tmp_path)
        again = demt.create_model(f"local-dir:{tmp_path}").eval()
        assert again.config == model.config
        images = torch.randn(1, 3, 40, 50)
        state, restored = model.state_dict(), again.state_dict()
        assert list(state) == list(restored)
        assert all(torch.equal(state[n], restored[n]) for n in state)
        first, second = model(images), again(images)
        assert all(torch.equal(first[t], second[t]) for t in first)


@pytest.mark.parametrize("name", SMALL)
def test_batches_and_half_precision(name):
    model = demt.create_model(f"{name}.pascal").eval()
    images = torch.randn(3, 3, 65, 97)
    with torch.no_grad():
        together = model(images)
        alone = [model(images[i : i + 1]) for i in range(3)]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
    for task in together:
        assert deviation(torch.cat([single[task] for single in alone]), together[task]) < 1e-4
        assert torch.isfinite(half[task]).all()
        error = (half[task].float() - together[task]).square().mean().sqrt() / together[task].std()
        assert error < 0.1


@pytest.mark.parametrize("options", [{}, {"interaction": "global", "query": "global"}])
@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("nano")])
def test_compile_and_export(name, options):
    if "baseline" in name and options:
        pytest.skip("a baseline has no attention")
    model = demt.create_model(name, **options).eval()
    images = torch.randn(1, 3, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        expected, levels = model(images), model.backbone(images)
        # The graph is captured whole; which compiler then runs it is the user's choice.
        compiled = torch.compile(model.head, fullgraph=True, backend="aot_eager")(levels, (64, 96), images)
        exported = torch.export.export(model, (images,)).module()(images)
    for task in expected:
        assert deviation(compiled[task], expected[task]) < 1e-4
        assert deviation(exported[task], expected[task]) < 1e-4


@pytest.mark.parametrize("name", ["degmix_nano", "demt_hrnet_w18", "demt_swin_tiny"])
def test_gradient_checkpointing_changes_no_gradient(name):
    model = demt.create_model(name, **({"backbone_kwargs": {"drop_path_rate": 0.0}} if "swin" in name else {})).train()
    images = torch.randn(2, 3, 64, 64)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    for m in (model, twin):
        sum(logits.square().mean() for logits in m(images).values()).backward()
    for (n, p), q in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=n)


@pytest.mark.parametrize(
    "name", ["degmix_nano", "demt_swin_tiny", "demt_hrnet_w18", "degmix_vit_base", "demt_dinov3_small"]
)
def test_layer_groups_reach_every_parameter(name):
    model = demt.create_model(name)
    layers = timm.optim.param_groups_layer_decay(
        model, layer_decay=0.5, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay()
    )
    scale = {id(p): group["lr_scale"] for group in layers for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    assert {scale[id(p)] for p in model.head.parameters()} == {1.0}
    backbone = {scale[id(p)] for p in model.backbone.parameters()}
    assert len(backbone) > 4
    first = next(p for n, p in model.named_parameters() if n.startswith("backbone.") and p.ndim == 4)
    assert scale[id(first)] == min(backbone)


def test_weight_decay_exceptions_are_named_from_the_root():
    model = demt.create_model("demt_swin_tiny")
    names = dict(model.named_parameters())
    assert model.no_weight_decay()
    assert model.no_weight_decay() <= set(names)


def test_models_pickle_and_copy():
    model = demt.create_model("degmix_nano").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert type(twin.backbone) is type(model.backbone)
            assert torch.equal(twin(images)["depth"], expected["depth"])


def test_state_dict_names_are_timms_under_backbone():
    plain = timm.create_model("mobilenetv4_conv_small", num_classes=0)
    ours = {n.removeprefix("backbone.") for n in demt.create_model("degmix_nano").state_dict() if n.startswith("back")}
    assert ours <= set(plain.state_dict())
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    ours = {
        n.removeprefix("backbone.") for n in demt.create_model("demt_swin_tiny").state_dict() if n.startswith("back")
    }
    assert {n for n in ours if n not in swin.state_dict()} == {
        f"norm{i}.{p}" for i in range(4) for p in ("weight", "bias")
    }
