"""Reading released checkpoints: every published variant, real Lightning files, hostile and foreign ones."""

import contextlib
import logging
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

import demt
from demt.files.weights import read_weights
from demt.models.variants import BACKBONES
from demt.released.convert import convert
from tests.released_form import released_form, save_as_lightning

FAMILIES = ["demt", "demtg", "degmix"]


def released_state(name, **options):
    model = demt.create_model(name, **options)
    return model, released_form(model.state_dict(), family=model.config.family, tasks=list(model.tasks))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_comes_back(backbone):
    family = FAMILIES[list(BACKBONES).index(backbone) % 3]
    model, state = released_state(f"{family}_{backbone}.pascal")
    loaded = demt.load_released(state)
    assert not loaded.training
    assert loaded.tasks == model.tasks
    assert loaded.config.replace(neck=None, head_width=model.config.head_width) == model.config
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_depth_and_channels_are_read_off_the_shapes(family):
    model, state = released_state(f"{family}_hrnet_w18", depth=3, tasks={"edge": 1, "semseg": 17}, in_chans=4, width=64)
    loaded = demt.load_released(state)
    assert (loaded.config.family, loaded.config.depth, loaded.config.width, loaded.config.in_chans) == (
        family,
        3,
        64,
        4,
    )
    assert {n: t.channels for n, t in loaded.tasks.items()} == {"edge": 1, "semseg": 17}
    assert list(loaded.tasks) == list(model.tasks)


def test_a_sorted_file_has_its_tasks_put_in_order():
    model, state = released_state("demt_hrnet_w18.nyud")
    loaded = demt.load_released({n: state[n] for n in sorted(state)})
    assert list(loaded.tasks) == ["semseg", "depth", "normals", "edge"]
    wanted, got = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(wanted[n], got[n]) for n in wanted)


def test_unused_and_foreign_entries(caplog):
    _, state = released_state("degmix_hrnet_w18")
    extra = {"criterion.loss.weight": torch.ones(3), "metric.confusion": torch.ones(2)}
    index = {"head.defor_mixers.0.blocks.0.3.fn.0.offset": torch.zeros(1, 512, 1, 1)}
    with caplog.at_level(logging.WARNING, "demt"):
        demt.load_released({"state_dict": {**state, **extra, **index}, "optimizer_states": [1]})
    (message,) = caplog.messages
    for part in ("head.linear1.*.weight (368,640 parameters)", "(query, key) (131,072 parameters)", ".offset (buffer)"):
        assert part in message
    assert convert({**state, **extra}).unused["head.linear1.0.weight"] == 256 * 1440
    with pytest.raises(ValueError, match=r"1 entries of the checkpoint belong to no released model.*head\.surprise"):
        demt.load_released({**state, "head.surprise": torch.ones(1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.clear(), "not a checkpoint of the released DeMT code: looked for `head.final_logits"),
        (lambda s: s.pop("head.smlp.0.weight"), r"has no entry .*head\.smlp\.0\.weight"),
        (lambda s: s.pop("head.smlp.0.bias"), "missing 'head.interaction.linear.bias'"),
        (lambda s: s["head.smlp.0.bias"].fill_(float("inf")), "NaN or infinite"),
        (lambda s: s.update({"head.smlp.0.bias": torch.ones(7)}), r"shape \(7,\), expected \(256,\)"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("backbone.stage4.")],
            "has no entry 'backbone.pos_embed'",
        ),
        (lambda s: s.update({"head.smlp.0.weight": torch.tensor(1.0)}), "too few dimensions; looked for"),
        (
            lambda s: s.update({"head.task_fusion.in_proj_weight": torch.tensor(1.0)}),
            r"in_proj_weight.* \(\), fits no model",
        ),
        (
            lambda s: s.update({"head.defor_mixers.99.blocks.0.3.fn.0.weight": torch.ones(1)}),
            "fits no model|no released",
        ),
        (lambda s: s.update({"head.defor_mixers.0.blocks.1000000000.x": torch.ones(1)}), "`depth` to be an integer"),
        (lambda s: s.update({"head.smlp.0.weight": torch.ones(8000, 0)}), r"expected \(8000, "),
    ],
)
def test_what_is_wrong_is_said(change, message):
    _, state = released_state("demt_hrnet_w18")
    change(state)
    with pytest.raises(ValueError, match=message):
        demt.load_released(state)


def test_wrong_sources(tmp_path):
    with pytest.raises(ValueError, match=r"state_dict. to map names to tensors, got list"):
        demt.load_released({"state_dict": [1]})
    with pytest.raises(FileNotFoundError, match="No weights at"):
        demt.load_released(tmp_path / "nothing.ckpt")
    file = tmp_path / "text.ckpt"
    file.write_text("hello")
    with pytest.raises(ValueError, match=r"cannot be read as weights"):
        demt.load_released(file)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="holds a list"):
        demt.load_released(file)
    torch.save({"state_dict": demt.create_model("demt_nano").state_dict()}, file)
    with pytest.raises(ValueError, match="weights of a model of demt, and a file of weights does not say"):
        demt.load_released(file)


def test_lightning_files_are_read_without_lightning(monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, module)
    model, state = released_state("demtg_hrnet_w18.nyud")
    file = tmp_path / "epoch=9.ckpt"
    scores = {"scores": {"best": np.float64(0.5)}, "lr_schedulers": [], "options": types.SimpleNamespace(a=1)}
    save_as_lightning(state, file, monkeypatch, **scores)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    loaded = demt.load_released(file)
    wanted = model.state_dict()
    assert all(torch.equal(wanted[n], t) for n, t in loaded.state_dict().items())
    assert not any(module.startswith("pytorch_lightning") for module in sys.modules)


class Runs:
    """Pickled, it writes a file when unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["os.system", "builtins.eval", "subprocess.call", "own"])
def test_hostile_files_run_nothing(kind, tmp_path):
    import os
    import subprocess

    marker = tmp_path / "ran"
    bomb = {
        "os.system": Runs(os.system, f"touch {marker}"),
        "builtins.eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "subprocess.call": Runs(subprocess.call, ["touch", str(marker)]),
        "own": Runs(open, str(marker), "w"),
    }[kind]
    _, state = released_state("demt_hrnet_w18")
    file = tmp_path / "bomb.ckpt"
    torch.save({"state_dict": state, "callbacks": {"x": bomb}}, file)
    # Refused with a clear error, or read with an inert stand-in; in both cases nothing ran.
    with contextlib.suppress(ValueError):
        demt.load_released(file)
    assert not marker.exists()


def test_truncated_zip(tmp_path):
    file = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1000)}}, file)
    file.write_bytes(file.read_bytes()[:-400])
    assert not zipfile.is_zipfile(file)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_weights(file)


@pytest.mark.parametrize("dataset", ["nyud", "pascal", "cityscapes"])
def test_the_number_of_classes_tells_the_data_set(dataset):
    tasks = demt.tasks.DATASETS[dataset]
    loaded = demt.load_released(released_state(f"demt_hrnet_w18.{dataset}")[1])
    assert loaded.tasks == tasks
    assert loaded.pretrained_cfg.tag == dataset
    part = {"semseg": tasks["semseg"], list(tasks)[-1]: list(tasks.values())[-1]}
    assert demt.load_released(released_state("demt_hrnet_w18", tasks=part)[1]).tasks == part
