"""`demt eval` on data of each kind gives what the metrics give when they are called by hand."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.data import Cityscapes, NYUDv2, PASCALContext, SyntheticRooms
from demt.data.transforms import eval_transform
from demt.metrics import MultiTaskMetrics
from demt.train.evaluation import make_accelerator
from tests.train.worker import reset

CLASSES = {"nyud": NYUDv2, "pascal": PASCALContext, "cityscapes": Cityscapes}


def save(folder, tasks):
    torch.manual_seed(0)
    model = demt.create_model("multitask_baseline", backbone="test_vit.r160_in1k", tasks=tasks, width=16).eval()
    model.save_pretrained(folder)
    return model


def command(*arguments):
    reset()
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return json.loads(Path(arguments[-1]).read_text())["results"]


def test_each_run_of_a_process_has_its_own_precision():
    reset()
    first = make_accelerator(mixed_precision="bf16")
    found = [make_accelerator().mixed_precision, make_accelerator(mixed_precision="no").mixed_precision]
    assert [*found, make_accelerator(mixed_precision="bf16").mixed_precision] == ["no", "no", "bf16"]
    assert first.mixed_precision == "bf16"
    with first.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dataset", "protocol"), [("nyud", "atrc"), ("nyud", "invpt"), ("pascal", "atrc"), ("cityscapes", "mtan")]
)
def test_published_layouts(tmp_path, dataset, protocol):
    size = {"nyud": (425, 560), "pascal": (64, 96), "cityscapes": (128, 256)}[dataset]
    SyntheticRooms(size, 2).write(tmp_path / "data", dataset, splits={"val": 2})
    model = save(tmp_path / "model", dataset)
    found = command(tmp_path / "model", tmp_path / "data", "--protocol", protocol, "--out", tmp_path / "results.json")
    transform = eval_transform(dataset, protocol=protocol)
    data = CLASSES[dataset](tmp_path / "data", "val", transform=transform)
    published = {"protocol": protocol, "dataset": dataset} if dataset != "cityscapes" else {"dataset": "pascal"}
    metrics = MultiTaskMetrics(model.tasks, **published)
    for index in range(2):
        batch = data.collate([data[index]])
        with torch.no_grad():
            metrics.update(model(batch["image"]), batch)
    expected = metrics.compute()
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-5)
    assert {name.partition("/")[0] for name in found} == set(model.tasks)
