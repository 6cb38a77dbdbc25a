"""A model's repr is a table, whose numbers are those of the model."""

import re

import pytest
import torch

import demt
from demt.tasks import Task


@pytest.mark.parametrize(
    "name", ["demt_nano", "demtg_nano", "degmix_nano", "multitask_baseline_nano", "refined_baseline_nano"]
)
def test_parts_add_up(name):
    tasks = {"semseg": 5, "depth": 1, "sal": 2, "height": Task(name="height", channels=2, unit="<b>")}
    model = demt.create_model(name, tasks=tasks)
    total = sum(parameter.numel() for parameter in model.parameters())
    text = repr(model)
    assert len(text) < 1000
    assert f"{total / 1e6:.2f} M parameters, float32, cpu" in text
    assert f"{name.removesuffix('_nano')} on" in text
    assert "trained on: not stated" in text
    parts = [float(count) for count in re.findall(r"([\d.]+) M$", text, re.M)]
    assert len(parts) == 2 + len(tasks)
    assert sum(parts) == pytest.approx(total / 1e6, abs=0.005 * (len(parts) + 1))
    assert re.search(r"^  semseg +5 +class ids +[\d.]+ M$", text, re.M)
    assert re.search(r"^  depth +1 +values \(m\) +[\d.]+ M$", text, re.M)
    html = model._repr_html_()
    assert html.count("<tr>") == 3 + len(tasks)
    assert "values (&lt;b&gt;)" in html


def test_what_it_learnt_from():
    model = demt.create_model("demt_nano.rooms", pretrained=True)
    assert "trained on: synthetic rooms; images run at longer side 128 pixels" in repr(model)
    assert "(conv_stem): Conv2d" in repr(model.backbone)


def test_in_other_modules_and_half_built():
    model = demt.create_model("demt_nano", tasks={"depth": 1})
    assert re.search(r"^    depth +1 +values", repr(torch.nn.Sequential(model)), re.M)
    assert repr(demt.fuse(model)).startswith("FusedModel(")
    empty = demt.MultiTaskModel.__new__(demt.MultiTaskModel)
    torch.nn.Module.__init__(empty)
    assert repr(empty) == "MultiTaskModel()"
