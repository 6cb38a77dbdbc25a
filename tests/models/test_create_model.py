"""create_model's arguments, and what it says to wrong ones."""

import logging

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

import demt
from demt.models.variants import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_free_composition(family):
    model = demt.create_model(family, backbone="convnextv2_atto", tasks={"semseg": 150, "depth": 1}, width=32).eval()
    outputs = model(torch.randn(1, 3, 50, 70))
    assert {t: tuple(o.shape) for t, o in outputs.items()} == {"semseg": (1, 150, 50, 70), "depth": (1, 1, 50, 70)}
    assert model.tasks["semseg"].channels == 150


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "efficientnet_b0", "shvit_s1", "pvt_v2_b0", "vit_tiny_patch16_224", "eva02_tiny_patch14_224"],
)
@pytest.mark.parametrize("family", ["demt", "degmix"])
def test_any_timm_backbone(family, backbone):
    model = demt.create_model(family, backbone=backbone, tasks={"depth": 1}, width=16)
    levels = model.backbone(torch.randn(1, 3, 70, 90))
    assert tuple(level.shape[1] for level in levels) == model.backbone.channels
    for level, stride in zip(levels, model.backbone.strides):
        assert level.shape[-2:] == (-(-70 // stride), -(-90 // stride))
    outputs = model(torch.randn(2, 3, 70, 90))
    assert outputs["depth"].shape == (2, 1, 70, 90)
    outputs["depth"].sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_own_task():
    height = demt.Task(name="height", channels=1, unit="m")
    model = demt.create_model("demt_nano", tasks={"height": height, "semseg": 3})
    assert list(model(torch.randn(2, 3, 64, 64))) == ["height", "semseg"]


def test_arguments_reach_the_blocks():
    model = demt.create_model(
        "demt_nano", width=32, depth=3, heads=8, offset_groups=4, initial_offsets="zero", gating=True, in_chans=4
    )
    spatial = model.head.mixers["semseg"].blocks[2].spatial
    assert spatial.offset.weight.shape[0] == 8
    assert not spatial.offset.weight.any()
    assert model.head.queries["depth"].heads == 8
    assert model.head.gating is not None
    assert model(torch.randn(2, 4, 64, 64))["depth"].shape == (2, 1, 64, 64)
    assert demt.create_model("demt_nano", depth=0)(torch.randn(2, 3, 64, 64))["depth"].shape == (2, 1, 64, 64)


def test_reset_heads_keeps_what_stays():
    model = demt.create_model("degmix_nano.nyud")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model.reset_heads({"edge": 1, "semseg": 7, "sal": 2})
    after = model.state_dict()
    assert list(model.tasks) == list(model.eval()(torch.randn(2, 3, 64, 64))) == ["edge", "semseg", "sal"]
    assert model.config.tasks == model.tasks
    new = {n for n in after if n not in before or not torch.equal(after[n], before[n])}
    assert all(
        n.startswith(("head.heads.sal", "head.mixers.sal", "head.queries.sal", "head.heads.semseg.logits")) for n in new
    )
    assert not any(".depth." in n for n in after)
    assert list(model.head.mixers) == ["edge", "semseg", "sal"]


def test_features_then_heads_is_forward():
    model = demt.create_model("demtg_nano").eval()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        features = model.forward_features(images)
        assert features["depth"].shape == (1, 64, 16, 20)
        outputs = model.forward_head(features, (64, 80))
        assert all(torch.equal(outputs[t], o) for t, o in model(images).items())


def test_new_tasks_on_saved_weights(tmp_path, caplog):
    demt.create_model("degmix_nano.nyud").save_pretrained(tmp_path)
    old = demt.create_model(f"local-dir:{tmp_path}").state_dict()
    with caplog.at_level(logging.WARNING, "demt"):
        model = demt.create_model(f"local-dir:{tmp_path}", tasks={"semseg": 5, "edge": 1, "sal": 2}, in_chans=4)
    assert caplog.messages == [
        f"{tmp_path / 'model.safetensors'}: kept 407 of 528 weights; adapted: backbone.conv_stem.weight; "
        "new: task 'sal', logits of 'semseg'; left out: task 'depth', task 'normals'"
    ]
    state = model.state_dict()
    assert torch.equal(state["head.mixers.edge.blocks.0.norm.weight"], old["head.mixers.edge.blocks.0.norm.weight"])
    same = [n for n in state if n in old and old[n].shape == state[n].shape]
    assert all(torch.equal(state[n], old[n]) for n in same)
    assert state["backbone.conv_stem.weight"].shape[1] == 4
    torch.testing.assert_close(state["backbone.conv_stem.weight"][:, 3], 0.75 * old["backbone.conv_stem.weight"][:, 0])


def test_weights_by_file(tmp_path):
    source = demt.create_model("demt_nano.nyud")
    source.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    by_path = demt.create_model("demt_nano.nyud", checkpoint_path=file)
    overlay = {"file": str(file)}
    by_name = demt.create_model("demt_nano.nyud", pretrained=True, pretrained_cfg_overlay=overlay, tasks={"depth": 1})
    for model in (by_path, by_name):
        assert torch.equal(model.head.heads["depth"].conv.weight, source.head.heads["depth"].conv.weight)


def test_registering():
    @demt.register_model
    def a_model_of_mine(pretrained=False, **kwargs):
        return demt.create_model("demt_nano", pretrained=pretrained, **{"width": 16, **kwargs})

    assert demt.is_model("a_model_of_mine")
    assert not demt.is_model("a_model_of_mine.nyud")
    assert "a_model_of_mine" in demt.list_models("a_model*")
    assert demt.create_model("a_model_of_mine", tasks={"depth": 1}).config.width == 16
    with pytest.raises(ValueError, match="built-in"):

        @demt.register_model
        def demt_nano():
            pass


def test_listing():
    assert demt.list_models("degmix_*", exclude_filters=["*swin*", "*vit*", "*dino*"]) == [
        "degmix_hrnet_w18",
        "degmix_hrnet_w48",
        "degmix_lite",
        "degmix_nano",
    ]
    assert not demt.is_model("degmix_swin_tiny.kitti")
    assert not demt.is_model("swin_tiny")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("degmix_swin_tny", {}, "Unknown model 'degmix_swin_tny'; did you mean one of .'degmix_swin_tiny'"),
        ("degmix_swin_tiny.nyu", {}, "Unknown tag 'nyu'.*'nyud'"),
        ("demt", {}, "needs the arguments .'backbone', 'tasks'."),
        (
            "demt",
            {"backbone": "convnextv2_tny", "tasks": {"depth": 1}},
            "timm model name, got 'convnextv2_tny'; did you mean",
        ),
        ("demt_nano", {"widht": 32}, "Unknown model argument 'widht'; did you mean .'width'"),
        ("demt_nano", {"width": -1}, "`width` to be an integer from 1 to 8192, got -1"),
        ("demt_nano", {"query": "softmax"}, "`query` to be one of"),
        ("demt_nano", {"query": "linear"}, "`pre_norm` to be True"),
        ("demt_nano", {"tasks": {"heigth": 1}}, "Unknown task 'heigth'"),
        ("demt_nano", {"tasks": {"items": {"channels": 1}}}, "name 'items', which torch"),
        ("demt_nano", {"family": "degmix"}, "drop `family` beside 'demt_nano'"),
        ("demt_nano", {"backbone_kwargs": {"foo": 1}}, "does not take all of `backbone_kwargs` .'foo': 1."),
        ("multitask_baseline_nano", {"depth": 2}, "`depth` has no effect, got 2"),
        ("demt_nano", {"backbone_kwargs": {"checkpoint_path": "x"}}, "without .'checkpoint_path'."),
        ("demt_nano", {"width": 8200}, "`width` to be an integer from 1 to 8192, got 8200"),
        (
            "demt_nano",
            {"backbone_kwargs": {"depths": [2, 10**9]}},
            "'depths' to be a number .* got 1000000000",
        ),
        ("hub:org/name", {}, "Unknown source in 'hub:org/name'"),
        ("hf-hub:name", {}, "a repository hf-hub:org/name"),
        (
            "local-dir:x",
            {"checkpoint_path": "y"},
            "'local-dir:x' comes with its weights.*'checkpoint_path'. cannot be given",
        ),
        ("demt_nano", {"pretrained": True}, "No weights are published for 'demt_nano' yet"),
        ("demt_nano", {"pretrained_cfg_overlay": {"mean_": 1}}, "Unknown keys"),
        (3, {}, "`model_name` to be a string"),
    ],
)
def test_wrong_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        demt.create_model(name, **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(3, 480, 640), r"`images` of shape \(B, 3, H, W\), got \(3, 480, 640\)"),
        (torch.randn(1, 4, 32, 32), r"got \(1, 4, 32, 32\)"),
        (
            torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
            "floating dtype, normalised, got torch.uint8; see demt.preprocess",
        ),
        (torch.randn(0, 3, 32, 32), "at least one image"),
        (torch.randn(1, 3, 0, 32), "at least one image and one pixel"),
        (torch.randn(1, 3, 32, 32, dtype=torch.float64), "model's dtype torch.float32, got torch.float64"),
        ([1, 2], "got list"),
        (torch.randn(1, 3, 32, 32), "more than one value per channel"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        demt.create_model("demt_nano").train()(images)


def test_a_backbone_of_fixed_size_says_so():
    model = demt.create_model("demt", backbone="maxvit_rmlp_pico_rw_256", tasks={"depth": 1}, width=16)
    with pytest.raises(ValueError, match=r"cannot take images of 64x64 pixels.*img_size"):
        model(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("demt_nano", "mobilenetv4_conv_small"),
        ("demt_swin_tiny", "swin_tiny_patch4_window7_224"),
        ("degmix_vit_base", None),
    ],
)
def test_backbone_weights_come_from_timm(name, timm_name, tmp_path):
    source = timm.create_model(timm_name or "vit_base_patch16_224")
    file = tmp_path / "timm.safetensors"
    safetensors.torch.save_file(source.state_dict(), file)
    released = {"released": True} if timm_name is None else {}
    options = {**released, "pretrained_cfg_overlay": {"file": str(file)}}
    model = demt.create_model(name, pretrained_backbone=True, backbone_kwargs=options).eval()
    images = torch.randn(1, 3, 224, 224)
    ours, theirs = model.backbone.state_dict(), source.state_dict()
    changed = {"pos_embed"} if timm_name is None else set()
    shared = (set(ours) & set(theirs)) - changed
    assert len(shared) > 0.95 * len(ours) - 8
    assert all(torch.equal(ours[n], theirs[n]) for n in shared)
    if timm_name is None:
        # The patch embedding's bias lives on in the position embeddings, which are resized to 512 pixels.
        assert model.backbone.patch_embed.proj.bias is None
        assert model.backbone.pos_embed.shape == (1, 1 + 32 * 32, 768)
        with torch.no_grad():
            levels = model.backbone(images)
            wanted = source.forward_intermediates(images, indices=[2, 5, 8, 11], norm=False, intermediates_only=True)
        for level, want in zip(levels, wanted):
            assert torch.nn.functional.cosine_similarity(level.flatten(), want.flatten(), dim=0) > 0.98


def test_a_model_in_half_precision():
    for name in ("demt_nano", "degmix_nano"):
        model = demt.create_model(name).eval()
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected, half = model(images), model.bfloat16()(images.bfloat16())
        for task, logits in half.items():
            assert logits.dtype == torch.bfloat16
            assert (logits.float() - expected[task]).square().mean().sqrt() < 0.1 * expected[task].std()


def test_new_tasks_of_an_eval_model_are_in_eval_mode():
    model = demt.create_model("demt_nano").eval()
    model.reset_heads({"semseg": 40, "sal": 2})
    assert not any(module.training for module in model.modules())


def test_another_backbone_on_a_named_variant():
    model = demt.create_model("degmix_vit_base", backbone="resnet18")
    assert model.config.backbone_kwargs == {}
    assert model(torch.randn(2, 3, 64, 64))["depth"].shape == (2, 1, 64, 64)


def test_weights_by_file_for_other_tasks(tmp_path):
    source = demt.create_model("demt_nano", tasks={"sal": 2, "semseg": 9})
    source.save_pretrained(tmp_path)
    model = demt.create_model(
        "demt_nano", checkpoint_path=tmp_path / "model.safetensors", tasks={"semseg": 9, "depth": 1}
    )
    assert torch.equal(model.head.heads["semseg"].logits.weight, source.head.heads["semseg"].logits.weight)


def test_registered_functions_get_the_other_arguments():
    seen = {}

    @demt.register_model
    def a_recording_model(pretrained=False, **kwargs):
        seen.update(kwargs)
        return demt.create_model("demt_nano")

    demt.create_model("a_recording_model", checkpoint_path="x", tasks={"depth": 1})
    assert seen == {"checkpoint_path": "x", "tasks": {"depth": 1}}


def test_backbone_weights_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="backbone 'resnet18' cannot be loaded; `pretrained_backbone=False`"):
        demt.create_model("demt", backbone="resnet18", tasks={"depth": 1}, pretrained_backbone=True)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_passes_its_own_check():
    """Which traces again without gradients, and compares the graphs by the names in them."""
    model = demt.create_model("demt_nano", tasks={"depth": 1}).eval()
    images = torch.randn(2, 3, 64, 96)
    traced = torch.jit.trace(model, images, strict=False)
    torch.testing.assert_close(traced(images)["depth"], model(images)["depth"], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_refuses_other_sizes():
    """It holds the size that it was made at, and would give wrong numbers at others."""
    model = demt.create_model("demt_nano", tasks={"depth": 1}).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        traced = torch.jit.trace(model, images, strict=False)
        other = images.flip(0)
        torch.testing.assert_close(traced(other)["depth"], model(other)["depth"], rtol=1e-4, atol=1e-5)
        for shape in ((2, 3, 96, 64), (2, 3, 64, 97), (2, 3, 1, 96), (1, 3, 64, 96)):
            with pytest.raises(RuntimeError, match="unflatten"):
                traced(torch.randn(shape))
