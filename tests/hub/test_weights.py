"""Saved weights on a model for other image sizes: what is adapted, and that it computes what it computed."""

import logging

import pytest
import safetensors.torch
import torch
from timm.layers import resample_abs_pos_embed
from typer.testing import CliRunner

import demt
from demt.cli import app
from tests.conftest import deviation

SMALL_VIT = {"depth": 4, "embed_dim": 48, "num_heads": 3}


def saved(folder, backbone, **backbone_kwargs):
    model = demt.create_model(
        "demt", backbone=backbone, backbone_kwargs=backbone_kwargs, tasks={"depth": 1}, width=16, head_width=8
    )
    for name, parameter in model.backbone.named_parameters():
        if name == "pos_embed":
            # New ones are so small that outputs hardly depend on them.
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(
    ("old", "new"), [((64, 64), (96, 128)), ((64, 96), (96, 64)), ((96, 96), (64, 144)), ((96, 144), (64, 64))]
)
def test_positions_of_a_vit(tmp_path, caplog, old, new, released):
    options = {**SMALL_VIT, **({"released": True} if released else {})}
    model = saved(tmp_path, "vit_tiny_patch16_224", img_size=old, **options)
    with caplog.at_level(logging.WARNING, "demt"):
        other = demt.MultiTaskModel.from_pretrained(tmp_path, backbone_kwargs={"img_size": new, **options})
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("; adapted: backbone.pos_embed")
    assert other.backbone.patch_embed.grid_size == tuple(side // 16 for side in new)
    images = torch.randn(1, 3, *new)
    with torch.no_grad():
        # The model that was saved resizes its positions for these images while it runs.
        assert deviation(other(images)["depth"], model(images)["depth"]) < 1e-5
        images = torch.randn(1, 3, *old)
        assert deviation(other(images)["depth"], model(images)["depth"]) > 1e-3


def test_bias_tables_of_attention(tmp_path, caplog):
    kwargs = {"depth": 4, "embed_dim": 48, "num_heads": 3}
    saved(tmp_path, "beit_base_patch16_224", img_size=64, **kwargs)
    demt.create_model(f"local-dir:{tmp_path}", backbone_kwargs={"img_size": (96, 128), **kwargs})
    assert caplog.messages[0].endswith("; adapted: backbone.blocks.*.attn.relative_position_bias_table")


def test_weights_by_folder_and_by_file(tmp_path):
    model = saved(tmp_path, "vit_tiny_patch16_224", img_size=(64, 96), **SMALL_VIT)
    options = {"backbone_kwargs": {"img_size": (96, 64), **SMALL_VIT}, "tasks": {"depth": 1}, "width": 16}
    options |= {"backbone": "vit_tiny_patch16_224", "head_width": 8}
    by_folder = demt.create_model("demt", checkpoint_path=tmp_path, **options)
    positions = resample_abs_pos_embed(model.backbone.pos_embed, (6, 4), (4, 6))
    torch.testing.assert_close(by_folder.backbone.pos_embed, positions)
    options["backbone_kwargs"]["img_size"] = (64, 96)
    by_file = demt.create_model("demt", checkpoint_path=tmp_path / "model.safetensors", **options)
    assert torch.equal(by_file.backbone.pos_embed, model.backbone.pos_embed)


def test_what_cannot_be_adapted_is_an_error(tmp_path):
    saved(tmp_path, "mixer_s32_224", img_size=(64, 96))
    with pytest.raises(ValueError, match=r"do not fit the model: 'backbone.blocks.0.mlp_tokens.*has shape"):
        demt.create_model(f"local-dir:{tmp_path}", backbone_kwargs={"img_size": (96, 96)})


def test_all_kept_says_nothing(tmp_path, caplog):
    saved(tmp_path, "resnet18")
    demt.create_model(f"local-dir:{tmp_path}", in_chans=3)
    assert caplog.messages == []
    demt.create_model(f"local-dir:{tmp_path}", in_chans=1, tasks={"depth": 1, "edge": 1})
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("adapted: backbone.conv1.weight; new: task 'edge'")


TASKS = {"semseg": 5, "depth": 1}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
@pytest.mark.parametrize("form", ["state dict", "before torch 1.6", "Lightning", "safetensors"])
def test_weights_as_others_save_them(tmp_path, prefix, form):
    model, file = demt.create_model("degmix_nano", tasks=TASKS), tmp_path / "own.pth"
    state = {f"{prefix}{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    if form == "safetensors":
        safetensors.torch.save_file(state, file)
    elif form == "Lightning":
        torch.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.4.0", "loops": {}}, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "state dict")
    loaded = demt.create_model("degmix_nano", tasks=TASKS, checkpoint_path=file).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_other_entries_and_prefixes_are_told(tmp_path):
    state = {
        f"network.{name}": tensor for name, tensor in demt.create_model("demt_nano", tasks=TASKS).state_dict().items()
    }
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(1)}}, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match="do not fit the model") as error:
        demt.create_model("demt_nano", tasks=TASKS, checkpoint_path=tmp_path / "own.ckpt")
    for part in (
        "missing 'backbone.",
        "unexpected 'network.backbone.",
        " more",
        "begin with 'network.': keep only those",
    ):
        assert part in str(error.value)


def test_commands_say_what_a_file_of_weights_lacks(tmp_path):
    model = demt.create_model("demt_nano", tasks=TASKS)
    model.save_pretrained(tmp_path / "saved")
    torch.save(model.state_dict(), tmp_path / "own.pth")
    for file, message in (
        ("own.pth", "a file of weights does not say how to build it: pass it as checkpoint_path="),
        ("saved/model.safetensors", "is part of a saved model: give its folder"),
        ("saved/config.json", "cannot be read as weights"),
    ):
        result = CliRunner().invoke(app, ["predict", "photo.png", "-m", str(tmp_path / file)])
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())
