"""The loop learns, in one process and two, in all its ways; and stops where it must."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.data import SyntheticRooms
from demt.data.transforms import eval_transform
from demt.models.variants import PACKAGED
from demt.train import NonFiniteLossError, load_recipe, loop
from demt.train.data import share_of
from tests.train.constant import constant_results
from tests.train.worker import TINY, reset, run, tiny, two_processes

SIX = "data.tasks=[semseg,human_parts,sal,normals,depth,edge]"


class Partial(SyntheticRooms):
    """Rooms of which every second lacks a label, and every third has less of another one."""

    def read(self, index):
        sample = super().read(index)
        if index % 2:
            del sample["semseg"]
        if index % 3 == 0:
            sample["depth"][..., 20:] = 255
        return sample


def partial(length, seed=0):
    return Partial((48, 64), length, seed, tasks=["semseg", "normals", "depth"], transform=eval_transform())


def rows(path):
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Blocks(SyntheticRooms):
    """Rooms of 3 x 4 pixels, each drawn as a block of 16 x 16: the network's grid of stride 4 can hold that exactly."""

    def read(self, index):
        sample = super().read(index)
        for name, value in sample.items():
            if name != "id":
                large = value.repeat_interleave(16, -2).repeat_interleave(16, -1)
                if name != "image":
                    inside = (torch.arange(large.shape[-1]) % 16 - 7.5).abs() < 4
                    large[..., ~inside] = 255
                    large[..., ~inside[:48], :] = 255
                sample[name] = type(value)(large)
        return sample


def test_one_batch_is_learnt_by_heart(tmp_path):
    data = Blocks((3, 4), 2, transform=eval_transform())
    changes = ["batch_size=2", "optim.lr=5e-3", "optim.weight_decay=0", "optim.warmup=10", "model.freeze_norm=true"]
    changes += ["save_every=1000", "eval_every=1000", "log_every=1", "steps=160", "data.eval_batch_size=1"]
    run(tiny(tmp_path / "run", *changes), train_set=data, val_set=data)
    first, *_, last = rows(tmp_path / "run/train.csv")
    print({name: (round(first[name], 4), round(last[name], 4)) for name in first if name.startswith("loss/")})
    for name in first:
        if name.startswith("loss/"):
            assert last[name] < 0.05 * first[name], name


def test_two_processes_equal_one_with_partial_labels(tmp_path, monkeypatch):
    changes = [
        "model.freeze_norm=true",
        "data.augment=false",
        "ema=0.5",
        "balancing=uncertainty",
        "optim.name=momentum",
    ]
    changes += ["eval_every=3", "data.val_length=5", "steps=4"]
    monkeypatch.setattr("demt.train.run.open_dataset", open_partial)
    one = run(tiny(tmp_path / "one", *changes))
    two = two_processes(tiny(tmp_path / "two", *changes), tmp_path / "report", partial_labels=True)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two["state"][name], value, rtol=1e-5, atol=1e-5)
    assert two["results"] == pytest.approx(one.results, rel=1e-4, abs=1e-5)
    for mine, theirs in zip(rows(tmp_path / "one/train.csv"), rows(tmp_path / "two/train.csv")):
        for name in ("total", "loss/semseg", "loss/normals", "loss/depth", "lr"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-5), name


def open_partial(data, split, cfg=None, tasks=None):
    return partial(data.length) if split == "train" else partial(data.val_length, 1)


def test_accumulated_parts_equal_the_whole_batch(tmp_path):
    """With labels everywhere; where they are partial, each part of a batch takes the mean over its own pixels."""
    changes = ["model.freeze_norm=true", "steps=3", "optim.name=momentum", "data.augment=false"]
    whole = run(tiny(tmp_path / "whole", *changes))
    parts = run(tiny(tmp_path / "parts", *changes, "accumulate=2"))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        ["precision=bf16", "model.grad_checkpointing=true", "accumulate=2", "optim.clip_grad=1"],
        ["balancing=dwa", "optim.layer_decay=0.7", "data.workers=1", "trackers=[tensorboard]", "samples=1"],
    ],
    ids=["bf16", "dwa"],
)
def test_ways_to_train(tmp_path, changes):
    trained = run(tiny(tmp_path / "run", *changes, "steps=3"))
    assert all(torch.isfinite(value).all() for value in trained.model.state_dict().values())
    saved = demt.create_model(f"local-dir:{tmp_path / 'run' / 'best'}")
    for name, value in trained.model.state_dict().items():
        assert torch.equal(saved.state_dict()[name], value)
    if "samples=1" in changes:
        assert list((tmp_path / "run/samples").glob("step_0000003_*.png"))
        pytest.importorskip("tensorboard")
        assert list((tmp_path / "run/tracked").glob("events*"))


@pytest.mark.parametrize("backbone", ["freeze", "lora"])
def test_a_part_learns(tmp_path, backbone):
    if backbone == "lora":
        pytest.importorskip("peft")
    recipe = tiny(tmp_path / "run", f"model.backbone={backbone}", "steps=3", "model.lora_rank=2", "optim.lr=1e-2")
    start = loop.Run(recipe).plain.state_dict()
    trained = run(recipe)
    saved = demt.create_model(f"local-dir:{tmp_path / 'run' / 'last'}").eval().state_dict()
    names = {name.replace(".base_layer", "") for name in start if ".lora_" not in name}
    assert set(saved) == names
    moved = {
        name
        for name in start
        if ".lora_" not in name and not torch.equal(saved[name.replace(".base_layer", "")], start[name])
    }
    backbones = {name for name in moved if name.startswith("backbone.")}
    if backbone == "freeze":
        assert not backbones
        assert not any(p.requires_grad for p in trained.model.backbone.parameters())
    else:
        assert backbones
        assert all(name.endswith(".base_layer.weight") for name in backbones)
        image = torch.randn(1, 3, 48, 64)
        plain = demt.create_model(f"local-dir:{tmp_path / 'run' / 'last'}").eval()
        for name, maps in trained.model.eval()(image).items():
            torch.testing.assert_close(plain(image)[name], maps, rtol=1e-4, atol=1e-4)
    assert any(name.startswith("head.heads.") for name in moved)


def test_only_some_parts_learn(tmp_path):
    recipe = tiny(tmp_path / "run", "model.only=[head.heads.depth,head.queries.depth]", "steps=3", "optim.lr=1e-2")
    start = {name: value.clone() for name, value in loop.Run(recipe).plain.state_dict().items()}
    saved = run(recipe).model.state_dict()
    moved = {name for name, value in saved.items() if not torch.equal(value, start[name])}
    assert moved
    # Statistics of batch normalisation, too: they are in the state dict.
    assert all(name.startswith(("head.heads.depth.", "head.queries.depth.")) for name in moved)
    assert any(name.endswith("running_mean") for name in moved)
    with pytest.raises(ValueError, match=r"`model.only` to name parts .*got 'head.depth'"):
        run(tiny(tmp_path / "other", "model.only=[head.depth]"))


def test_half_precision_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"`precision` to be no or bf16 on a CPU, got fp16"):
        run(tiny(tmp_path, "precision=fp16"))


def test_lora_needs_linear_layers(tmp_path):
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="has no linear layers"):
        run(tiny(tmp_path / "run", "model.backbone=lora", "model.args.backbone=test_resnet.r160_in1k"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    usual, steps = loop._step, []

    def step(run, batches, number, window):
        if number == 4:
            with torch.no_grad():
                next(run.plain.head.heads["depth"].parameters()).fill_(torch.nan)
        steps.append(number)
        usual(run, batches, number, window)

    monkeypatch.setattr(loop, "_step", step)
    recipe = tiny(tmp_path / "run", "save_every=3", "steps=9")
    # After the first epoch labels and logits are no longer checked by the criterion.
    with pytest.raises(
        NonFiniteLossError, match=r"loss of depth is not finite at step 4, on the samples \['0-"
    ) as raised:
        run(recipe)
    assert (raised.value.step, raised.value.tasks, len(raised.value.ids)) == (4, ["depth"], 4)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_0000003"]
    saved = demt.create_model(f"local-dir:{tmp_path / 'run' / 'last'}")
    assert all(torch.isfinite(value).all() for value in saved.state_dict().values())


def test_wrong_labels_stop_the_run_with_their_samples(tmp_path):
    class Wrong(SyntheticRooms):
        def read(self, index):
            sample = super().read(index)
            sample["semseg"][..., 0] = 99
            return sample

    data = Wrong((48, 64), 4, tasks=["semseg"], transform=eval_transform())
    with pytest.raises(ValueError, match=r"At step 0, samples \['0-00000.*'semseg': label 99 found"):
        run(tiny(tmp_path / "run"), train_set=data, val_set=data)
    good = SyntheticRooms((48, 64), 1, tasks=["semseg"], transform=eval_transform())
    with pytest.raises(ValueError, match=r"At step 0, samples \['0-00000\d', .*'semseg': label 99 found"):
        run(tiny(tmp_path / "run"), train_set=data, val_set=good)


@pytest.mark.parametrize(("length", "processes", "batch_size"), [(5, 2, 2), (1, 3, 4), (7, 3, 1), (6, 2, 3)])
def test_every_sample_is_evaluated_once(length, processes, batch_size):
    shares = [list(share_of(length, rank, processes, batch_size)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    counted = [index for share in shares for batch in share for index, counts in batch if counts]
    assert sorted(counted) == list(range(length))


def test_commands(tmp_path):
    reset()
    changes = [*TINY, f"out={tmp_path / 'run'}"]
    result = CliRunner().invoke(app, ["train", "rooms", *changes, "steps=2"])
    assert result.exit_code == 0, result.output
    assert "step 2: total" in result.output
    assert re.search(r"Evaluation after step 2 .*\n  semseg +miou \d.* % ↑\n", result.output)
    assert re.search(r"\n  loss +total \d", result.output)
    assert "waiting for data" in result.output
    arguments = ["eval", str(tmp_path / "run/last"), "rooms", "--size", "48x64", "--length", "3"]
    reset()
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "results.json"), "--protocol", "atrc"])
    assert result.exit_code == 0, result.output
    assert "rooms, metrics of protocol atrc" in " ".join(result.output.split())
    assert "pascal" not in result.output
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    row = rows(tmp_path / "run/eval.csv")[-1]
    # Rounding may move a median to the next bin.
    assert found.pop("normals/median") == pytest.approx(row["normals/median"], abs=0.01)
    assert found == pytest.approx({name: row[name] for name in found}, rel=1e-6)
    result = CliRunner().invoke(app, ["train", "rooms", *changes, "steps=2"])
    assert result.exit_code == 1
    assert "holds a run" in result.output
    result = CliRunner().invoke(app, ["train", "rooms", "--show", "optim.lr=1e-5"])
    assert "  # Largest learning rate.\n  lr: 1.0e-05\n" in result.output
    result = CliRunner().invoke(app, [*arguments, "--max-size", "32", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*arguments, "--device", "meta"])
    assert result.exit_code == 1
    result = CliRunner().invoke(app, ["eval", str(tmp_path / "run/last"), str(tmp_path / "nowhere")])
    assert "No folder" in result.output


@pytest.mark.slow
def test_a_short_run_beats_a_constant_prediction(tmp_path):
    """On every metric, the constant that the training labels suggest: most frequent class, mean depth, mean normal."""
    changes = ["model.name=multitask_baseline_nano.rooms", "model.args={}", "model.pretrained_backbone=false", SIX]
    changes += ["data.size=[96,128]", "data.length=1500", "data.val_length=24", "data.in_memory=true", "batch_size=8"]
    changes += ["steps=3000", "save_every=3000", "eval_every=4000", "optim.warmup=50", "optim.lr=1e-3"]
    trained = run(tiny(tmp_path / "run", *changes))
    constant = constant_results(SyntheticRooms((96, 128), 100, 0), SyntheticRooms((96, 128), 24, 1))
    print({name: (round(constant[name], 4), round(trained.results[name], 4)) for name in constant})
    for name in ("semseg/miou", "human_parts/miou", "sal/maxf", "edge/odsF", "depth/delta1"):
        assert trained.results[name] > 1.2 * constant[name], name
    for name in ("depth/rmse", "normals/mean"):
        assert trained.results[name] < 0.8 * constant[name], name


def test_a_model_starts_from_the_weights_it_shares_with_another(tmp_path, caplog):
    baseline = demt.create_model("multitask_baseline", backbone="test_vit.r160_in1k", tasks={"depth": 1}, width=16)
    baseline.save_pretrained(tmp_path / "baseline")
    recipe = tiny(tmp_path / "run", f"model.init=local-dir:{tmp_path / 'baseline'}", "model.pretrained_backbone=false")
    state = loop.Run(recipe).plain.state_dict()
    reset()
    fresh = loop.Run(tiny(tmp_path / "run", "model.pretrained_backbone=false")).plain.state_dict()
    shared = {n for n, value in baseline.state_dict().items() if n in state and state[n].shape == value.shape}
    assert {name.split(".")[0] for name in shared} == {"backbone", "head"}
    for name, value in state.items():
        expected = baseline.state_dict()[name] if name in shared else fresh[name]
        assert torch.equal(value, expected), name
    assert f"{len(shared)} of its {len(baseline.state_dict())} weights" in caplog.text
    other = demt.create_model("multitask_baseline", backbone="resnet18", tasks={"edge": 1}, width=8)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"`model.init` .* has no weights in common"):
        loop.Run(tiny(tmp_path / "run", f"model.init=local-dir:{tmp_path / 'other'}"))


def test_finetuning_starts_from_the_weights_of_a_name_that_has_some(caplog):
    rooms = ["data.dataset=rooms", "data.size=[48, 64]", SIX]
    name = next(iter(PACKAGED))
    made = loop.Run(load_recipe("finetune", [*rooms, f"model.name={name}"])).plain
    state = demt.create_model(name, pretrained=True).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    reset()
    without = ["model.name=degmix_nano.nyud", "model.pretrained_backbone=false"]
    loop.Run(load_recipe("finetune", [*rooms, *without]))
    assert "degmix_nano.nyud has no weights here" in caplog.text


def test_a_backbone_starts_from_a_file_and_a_run_goes_on_without_it(tmp_path):
    """The file comes before the weights that a name has where the recipe leaves that open."""
    name = "multitask_baseline_nano.rooms"
    file = tmp_path / "backbone.pth"
    source = demt.create_model(name).backbone.state_dict()
    torch.save(source, file)
    rooms = ["data.dataset=rooms", "data.size=[48, 64]", SIX, f"model.name={name}"]
    made = loop.Run(load_recipe("finetune", [*rooms, f"model.pretrained_backbone={file}"])).plain
    assert all(torch.equal(value, source[key]) for key, value in made.backbone.state_dict().items())
    recipe = tiny(tmp_path / "run", f"model.pretrained_backbone={file}", f"model.name={name}", "model.args={}")
    run(dataclasses.replace(recipe, steps=2))
    file.unlink()
    without = dataclasses.replace(recipe.model, pretrained_backbone=False)
    run(dataclasses.replace(recipe, steps=3, model=without), resume=True)
    for folder in (tmp_path / "run/last", tmp_path / "run/best"):
        assert not any(
            "backbone.pth" in path.read_text("utf-8") for path in folder.iterdir() if path.suffix != ".safetensors"
        )


def test_evaluation_on_the_samples_of_training_is_said(tmp_path, caplog):
    for folder, shape in (("images", (48, 64, 3)), ("semseg", (48, 64))):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.ones(shape, np.uint8)).save(tmp_path / folder / "a.png")
    changes = [f"data.root={tmp_path}", "data.tasks={semseg: 3}", f"model.name={next(iter(PACKAGED))}"]
    loop.Run(load_recipe("finetune", changes))
    assert "`data.val_ids` is not given" in caplog.text
    caplog.clear()
    reset()
    loop.Run(load_recipe("finetune", [*changes, "data.val_ids=[a]"]))
    assert "`data.val_ids`" not in caplog.text
