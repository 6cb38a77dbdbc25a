import dataclasses
import io
import math

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, Metric

from demt import Task
from demt.metrics import MultiTaskMetrics, ValidPixels, get_protocol, register_metric
from demt.tasks import BUILTIN, DATASETS
from tests.golden_losses import figures, tensors

NO_EDGE = {"semseg": DATASETS["nyud"]["semseg"], **{k: BUILTIN[k] for k in ("human_parts", "sal", "normals", "depth")}}


@pytest.mark.parametrize("protocol", ["atrc", "mtdp"])
def test_all_released_figures(protocol):
    outputs, labels = tensors()
    metrics = MultiTaskMetrics(NO_EDGE, protocol=protocol)
    metrics.update(outputs, labels)
    results = metrics.compute()
    expected = {
        "semseg/miou": figures()["metric/semseg"],
        "human_parts/miou": figures()["metric/human_parts"],
        "sal/maxf": figures()["metric/sal"],
        "normals/mean": figures()["metric/normals"],
        "depth/rmse": figures()["metric/depth@ignore=255"],
    }
    assert {key: results[key] for key in expected} == pytest.approx(expected, abs=1e-5)


def test_invpt_differs_from_atrc_in_saliency_alone():
    outputs, labels = tensors()
    results = {}
    for protocol in ("atrc", "invpt"):
        metrics = MultiTaskMetrics(NO_EDGE, protocol=protocol)
        metrics.update(outputs, labels)
        results[protocol] = metrics.compute()
    different = {key for key, value in results["atrc"].items() if results["invpt"][key] != value}
    assert different == {"sal/maxf"}
    twice = outputs["sal"].softmax(1)[:, 1].sigmoid()
    valid, positive = labels["sal"][:, 0] != 255, labels["sal"][:, 0] == 1
    scores = []
    for threshold in (k / 20 for k in range(1, 20)):
        salient = (twice >= threshold) & valid
        right = (salient & positive).sum().item()
        precision, recall = right / max(salient.sum().item(), 1), right / positive.sum().item()
        scores.append(1.3 * precision * recall / (0.3 * precision + recall) if right else 0)
    assert results["invpt"]["sal/maxf"] == pytest.approx(max(scores), abs=1e-6)


def test_small_logits_are_upsampled():
    generator = torch.Generator().manual_seed(0)
    logits = {"semseg": torch.randn(1, 4, 3, 4, generator=generator)}
    target = {"semseg": torch.randint(0, 4, (1, 6, 8), generator=generator)}
    up = {"semseg": F.interpolate(logits["semseg"], size=(6, 8), mode="bilinear", align_corners=False)}
    results = []
    for outputs in (logits, up):
        metrics = MultiTaskMetrics({"semseg": 4})
        metrics.update(outputs, target)
        results.append(metrics.compute())
    assert results[0] == results[1]


def test_partial_labels():
    outputs, labels = tensors()
    metrics = MultiTaskMetrics(NO_EDGE)
    metrics.update({k: v[:1] for k, v in outputs.items()}, {k: v[:1] for k, v in labels.items() if k != "depth"})
    second = {k: v[1:] for k, v in labels.items()}
    second["semseg"] = torch.full_like(second["semseg"], 255)
    second["sal"] = None
    metrics.update({k: v[1:] for k, v in outputs.items()}, second)
    results = metrics.compute()
    for name, images in (("semseg", slice(0, 1)), ("depth", slice(1, 2)), ("normals", slice(0, 2))):
        alone = MultiTaskMetrics({name: NO_EDGE[name]})
        alone.update({name: outputs[name][images]}, {name: labels[name][images]})
        for key, value in alone.compute().items():
            assert results[key] == pytest.approx(value, rel=1e-12)


def test_images_without_people_do_not_count_for_parts():
    logits = torch.randn(2, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 4, 4)
    target[0, 0] = 3
    results = []
    for images in (slice(0, 1), slice(0, 2)):
        metrics = MultiTaskMetrics({"human_parts": 7})
        metrics.update({"human_parts": logits[images]}, {"human_parts": target[images]})
        results.append(metrics.compute())
    assert results[0] == results[1]
    every = MultiTaskMetrics({"human_parts": dataclasses.replace(BUILTIN["human_parts"], foreground_only=False)})
    every.update({"human_parts": logits}, {"human_parts": target})
    assert every.compute() != results[0]


def height_mae(task):
    return ValidPixels(MeanAbsoluteError(), ignore_index=task.ignore_index)


@pytest.mark.parametrize("declared", ["function", "name"])
def test_own_task_with_own_metric(declared):
    if declared == "name":
        register_metric("height_mae_test")(height_mae)
    task = Task(name="height", channels=1, unit="m", metric=height_mae if declared == "function" else "height_mae_test")
    metrics = MultiTaskMetrics({"height": task})
    metrics.update({"height": torch.zeros(1, 1, 1, 3)}, {"height": torch.tensor([[[1.0, 3.0, 255.0]]])})
    (key,) = metrics.compute()
    assert key.startswith("height/height_mae")
    assert metrics.results == {key: 2.0}
    assert "height_mae" in str(metrics)


def test_default_metric_of_a_task_is_rmse():
    metrics = MultiTaskMetrics({"height": Task(name="height", channels=1)})
    metrics.update({"height": torch.zeros(1, 1, 1, 3)}, {"height": torch.tensor([[[3.0, 3.0, 255.0]]])})
    assert metrics.compute() == {"height/rmse": 3.0}


def test_table_and_reset():
    outputs, labels = tensors()
    metrics = MultiTaskMetrics(NO_EDGE, protocol="invpt", dataset="nyud")
    with pytest.raises(ValueError, match="call `compute`"):
        metrics.print_table()
    assert "MultiTaskMetrics" in str(metrics)
    metrics.update(outputs, labels)
    results = metrics.compute()
    console = Console(file=io.StringIO(), width=120)
    metrics.print_table(console)
    text = console.file.getvalue()
    assert text == str(metrics)
    for shown in ("protocol invpt, nyud", f"{100 * results['semseg/miou']:.2f}", "90.2044", "second sigmoid", "3.9798"):
        assert shown in text
    metrics.reset()
    with pytest.raises(ValueError, match=r"No labelled pixel of the tasks \['semseg', 'human_parts'"):
        metrics.compute()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "taskonomy"}, r"`protocol` to be one of \['atrc', 'invpt', 'mtdp'\], got 'taskonomy'"),
        ({"dataset": "kitti"}, r"`dataset` to be one of \('nyud', 'pascal'\), got 'kitti'"),
        ({"tasks": {"edge": 1}}, "'edge': boundary scores need `dataset`"),
        (
            {"tasks": {"x": Task(name="x", channels=1, metric="nowhere")}},
            r"'x' names the metric 'nowhere'.*register_metric",
        ),
        (
            {"tasks": {"x": Task(name="x", channels=1, metric=lambda task: 3)}},
            "'x': expected its metric factory .* got 3",
        ),
    ],
)
def test_bad_constructor_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskMetrics(**{"tasks": {"depth": 1}, **arguments})


@pytest.mark.parametrize(
    ("task", "logits", "target", "message"),
    [
        ("depth", torch.full((1, 1, 2, 2), math.nan), torch.ones(1, 2, 2), "'depth': logits hold NaN"),
        ("depth", torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2), "label 0 found; expected depths > 0"),
        ("depth", torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2), r"'depth': expected logits of shape \(B, 1, H, W\)"),
        ("semseg", torch.ones(1, 4, 2, 2), torch.full((1, 2, 2), 9), "'semseg': label 9 found"),
        ("semseg", torch.full((1, 4, 2, 2), math.nan), torch.ones(1, 2, 2), "'semseg': logits hold NaN"),
    ],
)
def test_bad_batches_name_the_task(task, logits, target, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskMetrics({"semseg": 4, "depth": 1}).update({task: logits}, {task: target})


def test_labels_without_logits():
    with pytest.raises(ValueError, match="labels of task 'depth' but `outputs` no logits"):
        MultiTaskMetrics({"depth": 1}).update({}, {"depth": torch.ones(1, 2, 2)})


class _FakeBoundaryScore(Metric):
    """Stands in for the boundary metric: keeps what it was given."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings
        self.given = []

    def update(self, preds, target):
        self.given.append((preds, target))

    def compute(self):
        return dataclasses.make_dataclass("Scores", ["ods", "ois", "ap"])(0.5, 0.6, 0.7)


@pytest.mark.parametrize("protocol", ["atrc", "invpt", "mtdp"])
@pytest.mark.parametrize("dataset", ["nyud", "pascal"])
def test_boundaries_get_their_settings_and_images_without_padding(monkeypatch, protocol, dataset):
    monkeypatch.setattr("demt.metrics.edges.BoundaryScore", _FakeBoundaryScore)
    metrics = MultiTaskMetrics({"edge": 1}, protocol=protocol, dataset=dataset)
    logits = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    target = torch.full((3, 1, 6, 8), 255.0)
    target[0, 0, :5, :6] = 1
    target[0, 0, 2, 2] = 255
    target[2] = 0
    metrics.update({"edge": logits}, {"edge": target})
    assert metrics.compute() == {"edge/odsF": 0.5, "edge/oisF": 0.6, "edge/ap": 0.7}
    inner = metrics.metrics["edge"].metric
    assert inner.settings["max_distance"] == {"nyud": 0.011, "pascal": 0.0075}[dataset]
    assert inner.settings["nms"] == ("mtdp" if protocol == "mtdp" else "seism")
    (first, first_label), (last, _) = inner.given
    torch.testing.assert_close(first, logits[:1, 0, :5, :6].sigmoid())
    assert first_label.sum() == 29
    assert last.shape == (1, 6, 8)
    assert f"max_distance {inner.settings['max_distance']}" in str(metrics)


def test_real_boundaries():
    target = torch.full((1, 1, 40, 50), 255.0)
    target[0, 0, :36, :44] = 0
    target[0, 0, 18, :44] = 1
    logits = torch.where(target == 1, 6.0, -6.0)
    metrics = MultiTaskMetrics({"edge": 1}, dataset="nyud")
    metrics.update({"edge": logits}, {"edge": target})
    results = metrics.compute()
    assert set(results) == {"edge/odsF", "edge/oisF", "edge/ap"}
    assert results["edge/odsF"] > 0.9


def test_protocols_give_tasks_for_training():
    assert get_protocol("atrc").tasks("nyud")["edge"].loss_args == {"pos_weight": 0.8}
    assert get_protocol("invpt").tasks("nyud")["edge"].loss_args == {"pos_weight": 0.95}
    assert get_protocol("mtdp").tasks("pascal")["edge"].loss_args == {"pos_weight": 0.95}
    assert list(get_protocol("atrc").tasks("nyud")) == list(DATASETS["nyud"])
    own = dataclasses.replace(get_protocol("atrc"), name="own", second_sigmoid=True)
    assert MultiTaskMetrics({"sal": 2}, protocol=own).metrics["sal"].second_sigmoid
