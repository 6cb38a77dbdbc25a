"""Backbone weights from files: under whose names they may be, what is told of them, and what is refused."""

import pickle

import pytest
import safetensors.torch
import timm
import torch

import demt
from demt.backbones import create_backbone

SMALL = "mobilenetv4_conv_small"
SAVE = {".safetensors": safetensors.torch.save_file, ".pth": torch.save}


def saved(values, path):
    SAVE[path.suffix](values, path)
    return path


def same(backbone, state):
    """Whether all of a backbone's weights are those of a state dict."""
    ours = backbone.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in ours.items())


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return timm.create_model(SMALL).state_dict()


@pytest.mark.parametrize("suffix", list(SAVE))
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.module.", "model.backbone.", "encoder.", "student.", "teacher.backbone."]
)
def test_prefixes_are_looked_through(prefix, suffix, source, tmp_path):
    file = saved({f"{prefix}{name}": tensor for name, tensor in source.items()}, tmp_path / f"weights{suffix}")
    assert same(create_backbone(SMALL, pretrained=file), source)


@pytest.mark.parametrize("entries", [["state_dict"], ["model"], ["teacher"], ["model", "state_dict"]])
def test_entries_are_looked_through(entries, source, tmp_path):
    values = source
    for entry in reversed(entries):
        values = {"epoch": 3, "optimizer": {"state": {}}, entry: values}
    assert same(create_backbone(SMALL, pretrained=saved(values, tmp_path / "weights.pth")), source)


@pytest.mark.parametrize("nested", [False, True])
def test_the_teacher_comes_before_the_student(nested, source, tmp_path):
    student = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    if nested:
        values = {"student": student, "teacher": {f"backbone.{name}": tensor for name, tensor in source.items()}}
    else:
        values = {f"student.backbone.{name}": tensor for name, tensor in student.items()}
        values |= {f"teacher.backbone.{name}": tensor for name, tensor in source.items()}
    assert same(create_backbone(SMALL, pretrained=saved(values, tmp_path / "weights.pth")), source)


def test_one_line_tells_what_did_not_fit(source, tmp_path, caplog):
    values = {f"backbone.{name}": tensor for name, tensor in source.items() if name != "bn1.bias"}
    values |= {
        "backbone.bn1.weight": torch.zeros(3),
        "head.heads.0.weight": torch.zeros(2),
        "head.heads.1.weight": torch.zeros(2),
    }
    file = saved(values, tmp_path / "weights.safetensors")
    demt.create_model("demt", backbone=SMALL, tasks={"depth": 1}, width=16, pretrained_backbone=str(file))
    (record,) = caplog.records
    message = record.getMessage()
    total = sum(not name.endswith("num_batches_tracked") for name in create_backbone(SMALL).state_dict())
    assert f"{file}: {total - 2} of the backbone's {total} weights loaded; not in the file: bn*.bias; " in message
    assert "of another shape: bn1.weight (3,) instead of (32,); not used: " in message
    assert "not used: head.heads.*, " in message


def lite_names():
    """Names of EfficientNet-Lite0 as EfficientNet-PyTorch writes them, in the order of its modules."""

    def norm(name):
        return [f"{name}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for i in range(16):
        block = f"_blocks.{i}."
        names += [f"{block}_expand_conv.weight", *norm(f"{block}_bn0")] if i else []
        names += [f"{block}_depthwise_conv.weight", *norm(f"{block}_bn1")]
        names += [f"{block}_project_conv.weight", *norm(f"{block}_bn2")]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


def test_names_of_efficientnet_lite(tmp_path, caplog):
    """Both list their modules in the order in which they run."""
    source = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert len(lite_names()) == len(source) == 296
    file = saved(dict(zip(lite_names(), source.values(), strict=True)), tmp_path / "lite.pth")
    model = demt.create_model("demt_lite", pretrained_backbone=file)
    assert same(model.backbone, source)
    assert "not in the file" not in caplog.text
    assert "not used: conv_head, bn*, classifier" in caplog.text


def as_dinov2(name):
    return name


def as_dinov3(name):
    return name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("reg_token", "storage_tokens")


def as_convnext(name):
    name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
    if ".downsample." in name:
        name = name.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
    return name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")


def as_swin(name):
    stage = name.split(".")[1]
    return (
        name.replace(f"layers.{stage}.downsample", f"layers.{int(stage or 0) - 1}.downsample")
        if "downsample" in name
        else name
    )


@pytest.mark.parametrize(
    ("name", "options", "rename", "more"),
    [
        ("vit_tiny_patch16_224", {"depth": 4}, as_dinov2, {"mask_token": torch.zeros(1, 192)}),
        (
            "vit_small_patch16_dinov3",
            {"depth": 4},
            as_dinov3,
            {
                "mask_token": torch.zeros(1, 384),
                "rope_embed.periods": torch.ones(16),
                "blocks.0.attn.qkv.bias": torch.zeros(3 * 384),
                "blocks.0.attn.qkv.bias_mask": torch.ones(3 * 384),
            },
        ),
        ("convnext_atto", {}, as_convnext, {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}, as_swin, {}),
    ],
)
def test_names_of_the_authors(name, options, rename, more, tmp_path, capsys):
    """Files as the authors of DINOv2, DINOv3, ConvNeXt and Swin write them."""
    torch.manual_seed(1)
    source = timm.create_model(name, num_classes=0, **options).state_dict()
    values = {rename(key): tensor for key, tensor in source.items() if not key.startswith("head.")}
    assert len(values) == sum(not key.startswith("head.") for key in source)
    backbone = create_backbone(name, pretrained=saved({**values, **more}, tmp_path / "weights.pth"), **options)
    ours = {key: tensor for key, tensor in backbone.state_dict().items() if key in source}
    assert len(ours) >= len(source) - 4
    assert all(torch.equal(tensor, source[key]) for key, tensor in ours.items())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (SMALL, {"in_chans": 4}),
        ("swin_tiny_patch4_window7_224", {"in_chans": 1, "depths": (1, 1, 1, 1), "embed_dim": 24}),
        ("vit_tiny_patch16_224", {"img_size": (96, 160), "depth": 4}),
        ("vit_tiny_patch16_224", {"released": True, "depth": 4}),
    ],
)
def test_channels_and_sizes_are_adapted_as_timm_does(name, options, tmp_path):
    """The witness is timm's own loading of the same file."""
    shape = {key: value for key, value in options.items() if key in ("depths", "depth", "embed_dim")}
    source = timm.create_model(name, num_classes=0, **shape).state_dict()
    file = saved(source, tmp_path / "weights.safetensors")
    overlay = {"file": str(file), "classifier": None, "num_classes": 0}
    theirs = create_backbone(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).state_dict()
    ours = create_backbone(name, pretrained=file, **options).state_dict()
    assert list(ours) == list(theirs)
    for key, tensor in ours.items():
        if not key.startswith(("norm0.", "norm1.", "norm2.", "norm3.")):
            torch.testing.assert_close(tensor, theirs[key], msg=key)


def test_no_path_is_saved(source, tmp_path):
    file = saved(source, tmp_path / "private.pth")
    demt.create_model("demt_nano", pretrained_backbone=file).save_pretrained(tmp_path / "model")
    for written in ("config.json", "README.md"):
        assert "private" not in (tmp_path / "model" / written).read_text(encoding="utf-8")


@pytest.mark.parametrize("wrong", [None, 1, 0, "", b"weights.pth", ["weights.pth"], {"state_dict": {}}])
def test_a_wrong_type_is_refused_before_anything_is_built(wrong, monkeypatch):
    monkeypatch.setattr("timm.create_model", None)
    with pytest.raises((ValueError, FileNotFoundError), match=r"`pretrained_backbone`.*path of a"):
        demt.create_model("demt_nano", pretrained_backbone=wrong)


def test_files_that_are_refused(source, tmp_path):
    def refusal(file, kind=ValueError):
        with pytest.raises(kind) as caught:
            create_backbone(SMALL, pretrained=file)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is no file" in refusal(tmp_path / "none.pth", FileNotFoundError)
    assert "is a folder, expected a file" in refusal(tmp_path, FileNotFoundError)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "holds no tensors by name" in refusal(tmp_path / "module.pth")
    for name in ("cut.pth", "cut.safetensors"):
        saved(source, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
        assert "cut" in refusal(tmp_path / name)
    (tmp_path / "text.pth").write_text("weights", encoding="utf-8")
    assert "text.pth" in refusal(tmp_path / "text.pth")
    assert "holds a list, expected a state dict" in refusal(saved([1, 2], tmp_path / "list.pth"))
    assert "holds no tensors by name" in refusal(saved({"a": 1}, tmp_path / "plain.pth"))
    other = timm.create_model("resnet18").state_dict()
    assert "does not fit the backbone 'mobilenetv4_conv_small', whose names" in refusal(
        saved(other, tmp_path / "other.pth")
    )
    broken = {**source, "conv_stem.weight": source["conv_stem.weight"] * float("nan")}
    assert "'conv_stem.weight' holds NaN" in refusal(saved(broken, tmp_path / "broken.pth"))


def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, tmp_path / "evil_zip.pth")
    for name in ("evil.pth", "evil_zip.pth"):
        with pytest.raises(ValueError, match="cannot be read as weights"):
            create_backbone(SMALL, pretrained=tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_weights_of_the_whole_model_and_a_file_contradict_each_other(source, tmp_path):
    file = saved(source, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights.pth' cannot be loaded beside the weights of the whole model"):
        demt.create_model("demt_nano.rooms", pretrained=True, pretrained_backbone=file)


def test_registered_functions_get_the_path(source, tmp_path, monkeypatch):
    monkeypatch.setattr("demt.registry._functions", {})
    file = saved(source, tmp_path / "weights.pth")

    @demt.register_model
    def mine(pretrained=False, **kwargs):
        return demt.create_model("demt_nano", pretrained=pretrained, **kwargs)

    assert same(demt.create_model("mine", pretrained_backbone=file).backbone, source)
