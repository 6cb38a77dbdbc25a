"""Folders of save_pretrained: what is written, and what damaged or foreign ones are answered."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn.utils import parametrizations, prune

import demt
from demt.files import write_whole
from tests.memory import little_memory


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    demt.create_model("demt_nano.pascal").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder, change):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    change(state)
    safetensors.torch.save_file(state, folder / "model.safetensors")


def test_files(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config["library"] == "demt"
    assert config["model"]["family"] == "demt"
    assert [task["name"] for task in config["model"]["tasks"]] == ["semseg", "human_parts", "sal", "normals", "edge"]
    assert config["pretrained_cfg"]["input_size"] == [3, 192, 256]
    umask = os.umask(0)
    os.umask(umask)
    assert (saved / "config.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_card_written_by_hand_stays(saved, tmp_path):
    model = demt.MultiTaskModel.from_pretrained(saved)
    (tmp_path / "README.md").write_text("by hand")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "by hand"
    model.save_pretrained(tmp_path, card=demt.ModelCard(title="Mine"))
    assert "# Mine" in (tmp_path / "README.md").read_text()


def test_from_pretrained_is_ready_to_predict(saved):
    model = demt.MultiTaskModel.from_pretrained(saved)
    assert not model.training
    assert model.pretrained_cfg.tag == "pascal"
    assert model.tasks["semseg"].classes[0] == "background"


def test_own_tasks_come_back(tmp_path):
    height = demt.Task(
        name="height", channels=2, activation="argmax", classes=("low", "high"), palette=((0,) * 3, (9,) * 3)
    )
    demt.create_model("demt_nano", tasks={"height": height}).save_pretrained(tmp_path)
    assert demt.MultiTaskModel.from_pretrained(tmp_path).tasks == {"height": height}


def test_half_precision_files_load(folder):
    edit_weights(folder, lambda s: s.update({n: t.half() for n, t in s.items() if t.is_floating_point()}))
    model = demt.create_model(f"local-dir:{folder}")
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(colour=1), "Unknown keys .'colour'. in the model's configuration"),
        (lambda c: c.update(colour=1), "Unknown keys .'colour'.; known keys are .'library'"),
        (lambda c: c["model"].pop("tasks"), "Missing keys .'tasks'."),
        (lambda c: c["model"].update(tasks=[{"name": "x"}]), "missing .'channels'."),
        (lambda c: c["model"].update(tasks=3), "does not describe a demt model"),
        (lambda c: c["model"].update(width="wide"), "`width` to be an integer"),
        (lambda c: c["model"].update(width=48), "heads.mixers|do not fit the model"),
        (lambda c: c.update(library="timm"), 'expected {"library": "demt"'),
        (
            lambda c: c["pretrained_cfg"].update(std=[0, 1, 1]),
            "`std` to be a number from 1e-05 to 10000, got 0",
        ),
        (lambda c: c["pretrained_cfg"].update(mean=[float("nan")] * 3), "each value of `mean` to be a number"),
        (lambda c: c["pretrained_cfg"].update(sha256="../x"), "64 lower-case hexadecimal digits"),
    ],
)
def test_wrong_config(folder, change, message):
    edit_config(folder, change)
    with pytest.raises(ValueError, match=message):
        demt.create_model(f"local-dir:{folder}")


def test_broken_json(folder):
    (folder / "config.json").write_text('{"library": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        demt.create_model(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["head.neck.norm.bias"].fill_(float("nan")), "'head.neck.norm.bias' holds NaN or infinite values"),
        (lambda s: s.pop("head.neck.norm.bias"), "missing 'head.neck.norm.bias'"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected 'extra'"),
        (lambda s: s.update({"head.neck.norm.bias": torch.ones(3)}), r"shape \(3,\), expected \(64,\)"),
        (lambda s: [s.pop(n) for n in list(s) if ".depth" in n or ".edge." in n], "missing 'head.heads.edge"),
    ],
)
def test_wrong_weights(folder, change, message):
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        demt.create_model(f"local-dir:{folder}")


@pytest.mark.parametrize("content", ["truncated", "pickle", "empty", "text"])
def test_files_that_are_not_safetensors(folder, content, tmp_path):
    file = folder / "model.safetensors"
    if content == "pickle":
        torch.save({"a": torch.ones(3)}, file)
    else:
        whole = file.read_bytes()
        file.write_bytes(
            {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"version https://git-lfs"}[content]
        )
    with pytest.raises(ValueError, match=r"not a whole safetensors file.*download it again"):
        demt.create_model(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(backbone="hf-hub:evil/model"), "timm model name, got 'hf-hub:evil/model'"),
        (lambda c: c["model"].update(backbone="../../evil"), "timm model name"),
        (lambda c: c["model"]["backbone_kwargs"].update(checkpoint_path="/etc/passwd"), "without .'checkpoint_path'."),
        (lambda c: c["model"]["backbone_kwargs"].update(pretrained=True), "without .'pretrained'."),
        (lambda c: c["model"]["backbone_kwargs"].update(drop_path_rate="x"), "describes no model"),
        (lambda c: c["model"]["tasks"][0].update(name="../../evil"), "to be a Python identifier"),
        (lambda c: c["model"].update(width=10**12), "`width` to be an integer from 1 to 8192, got 1000000000000"),
        (lambda c: c["model"].update(in_chans=10**400), "`in_chans` to be an integer from 1 to 8192, got 100000000000"),
        (lambda c: c["model"]["backbone_kwargs"].update(depths=[10**9] * 4), "'depths' to be a number from -8192"),
    ],
)
def test_hostile_config(folder, change, message):
    edit_config(folder, change)
    with pytest.raises(ValueError, match=message):
        demt.create_model(f"local-dir:{folder}")


@pytest.mark.parametrize("text", ["[" * 100_000, " " * 2_000_000, '{"library": 1' + "0" * 5000 + "}"])
def test_hostile_json(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not valid JSON|expected at most 1,048,576"):
        demt.create_model(f"local-dir:{folder}")


def header(values):
    text = json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}) + bytes(8), "not a whole"),
        (header({"a": {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 8]}}) + bytes(8), "not a whole"),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**50]}}) + bytes(8), "not a whole"),
        (header({"a": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}}), "do not fit the model"),
        (
            header({"../../evil": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}) + bytes(8),
            "do not fit the model",
        ),
        ((2**63).to_bytes(8, "little") + b"{}", "claims a header of 9,223,372,036,854,775,808 bytes"),
        (header({str(number): "x" * 99 for number in range(200_000)}), "claims a header of 2"),
        (b"\x02", "not a whole"),
    ],
    ids=["shape", "overflow", "offsets", "nothing", "name", "claimed header", "true header", "short"],
)
def test_hostile_weights(folder, content, message):
    (folder / "model.safetensors").write_bytes(content)
    with little_memory(), pytest.raises(ValueError, match=message):
        demt.create_model(f"local-dir:{folder}")


def test_a_configuration_larger_than_its_weights_takes_no_memory(folder):
    edit_config(folder, lambda c: c["model"].update(width=8192, head_width=8192))
    with torch.device("meta"):
        model = demt.MultiTaskModel(demt.hub.folder.read_config(folder / "config.json")[0])
    assert sum(p.numel() * 4 for p in model.parameters()) > 10**10
    with little_memory(), pytest.raises(ValueError, match="do not fit the model"):
        demt.create_model(f"local-dir:{folder}")


def test_what_is_written_can_be_loaded(tmp_path):
    def saved(change):
        model = demt.create_model("demt_nano", tasks={"depth": 1})
        change(model)
        with pytest.raises(
            ValueError, match="Nothing was written, because the model could not be loaded again"
        ) as error:
            model.save_pretrained(tmp_path / "model")
        assert not (tmp_path / "model").exists()
        return str(error.value)

    def logits(model):
        return model.head.heads["depth"].logits

    assert "unexpected 'head.heads.depth.logits.weight_mask'" in saved(
        lambda model: prune.l1_unstructured(logits(model), "weight", 0.3)
    )
    assert "logits.parametrizations.weight" in saved(lambda model: parametrizations.weight_norm(logits(model)))
    assert "shape (3, 32, 1, 1), expected (1, 32, 1, 1)" in saved(
        lambda model: setattr(model.head.heads["depth"], "logits", torch.nn.Conv2d(32, 3, 1))
    )
    assert "'head.heads.depth.logits.bias' holds NaN" in saved(
        lambda model: torch.nn.init.constant_(logits(model).bias, float("nan"))
    )
    assert "_orig_mod" in saved(lambda model: setattr(model, "backbone", torch.compile(model.backbone)))


def test_shared_weights_are_written_twice(tmp_path):
    model = demt.create_model("demt_nano", tasks={"a": {"channels": 2}, "b": {"channels": 2}})
    model.head.heads["b"].logits.weight = model.head.heads["a"].logits.weight
    model.save_pretrained(tmp_path)
    heads = demt.MultiTaskModel.from_pretrained(tmp_path).head.heads
    assert torch.equal(heads["a"].logits.weight, heads["b"].logits.weight)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_weights_of_dtypes_that_are_no_values(folder, dtype):
    if dtype not in safetensors.torch._SIZE:
        pytest.skip("safetensors is too old to write such a file")
    edit_weights(folder, lambda s: s.update({"head.neck.norm.bias": s["head.neck.norm.bias"].to(dtype)}))
    with pytest.raises(ValueError, match=rf"'head.neck.norm.bias' has dtype {dtype}, expected one of"):
        demt.create_model(f"local-dir:{folder}")


def test_weights_that_overflow_in_the_models_precision(folder):
    edit_weights(folder, lambda s: s.update({"head.neck.norm.bias": torch.full((64,), 1e300, dtype=torch.float64)}))
    with pytest.raises(ValueError, match=r"'head.neck.norm.bias' holds NaN or infinite values"):
        demt.create_model(f"local-dir:{folder}")


def test_statistics_of_another_number_of_channels(folder):
    edit_config(folder, lambda c: c["pretrained_cfg"].update(mean=[0.1, 0.2], std=[0.1, 0.2]))
    with pytest.raises(ValueError, match="`mean` and `std` of 3 channels"):
        demt.create_model(f"local-dir:{folder}")


def test_a_file_says_its_channels(tmp_path):
    demt.create_model("demt_nano", tasks={"depth": 1}, in_chans=4).save_pretrained(tmp_path)
    cfg = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (len(cfg["mean"]), len(cfg["std"]), cfg["input_size"][0]) == (4, 4, 4)
    assert demt.create_model(str(tmp_path)).pretrained_cfg.mean == tuple(cfg["mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(new_option=True), r"Unknown keys .'new_option'.*newer version: upgrade with pip"),
        (lambda c: c["model"]["tasks"][0].update(new=1), r"Unknown keys .'new'. in a task.*newer version: upgrade"),
        (lambda c: c["pretrained_cfg"].update(crop=1), r"Unknown keys .'crop'.*newer version: upgrade"),
        (lambda c: c.update(extra=1), r"Unknown keys .'extra'.*newer version: upgrade"),
        (lambda c: (c.update(version="99.1"), c["model"].update(neck="new")), r"by demt '99.1', and this is .*upgrade"),
        (lambda c: (c.update(version=3), c["model"].update(neck="new")), r"`neck` to be one of .*got 'new'$"),
    ],
)
def test_configurations_of_newer_versions(folder, change, message):
    edit_config(folder, change)
    with pytest.raises(ValueError, match=message):
        demt.create_model(f"local-dir:{folder}")


def test_configurations_without_a_version(folder):
    edit_config(folder, lambda c: c.pop("version"))
    assert demt.create_model(f"local-dir:{folder}").config.family == "demt"


def test_missing_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="No model folder at"):
        demt.create_model(f"local-dir:{tmp_path / 'nowhere'}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="No weights at"):
        demt.create_model(f"local-dir:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"No config.json"):
        demt.create_model(f"local-dir:{folder}")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail(target):
        Path(target).write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
