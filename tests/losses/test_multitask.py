import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from demt import Task
from demt.losses import MultiTaskLoss, cross_entropy, register_loss
from demt.metrics import MultiTaskMetrics
from demt.tasks import BUILTIN, DATASETS
from tests.golden_losses import figures, tensors

TASKS = {**BUILTIN, "semseg": DATASETS["nyud"]["semseg"]}
PAIR = {"semseg": 4, "depth": 1}


def _batch(size=(6, 8), label_size=None, batch=2):
    generator = torch.Generator().manual_seed(0)
    label_size = label_size or size
    outputs = {
        "semseg": torch.randn(batch, 4, *size, generator=generator, requires_grad=True),
        "depth": torch.randn(batch, 1, *size, generator=generator, requires_grad=True),
    }
    targets = {
        "semseg": torch.randint(0, 4, (batch, *label_size), generator=generator),
        "depth": torch.rand(batch, 1, *label_size, generator=generator) + 1,
    }
    return outputs, targets


def test_total_is_published_sum_of_released_losses():
    outputs, labels = tensors()
    result = MultiTaskLoss(TASKS)(outputs, labels)
    expected = {name: figures()[f"loss/{name}"] for name in TASKS if name != "edge"}
    expected["edge"] = figures()["loss/edge@pos_weight=0.95"]
    for name, value in expected.items():
        assert result.parts[name].item() == pytest.approx(value, abs=1e-5)
        assert result.weights[name] == figures()["weights"][name]
    total = sum(figures()["weights"][name] * value for name, value in expected.items())
    assert result.total.item() == pytest.approx(total, rel=1e-6)


def test_nyud_has_its_own_edge_weight():
    outputs, labels = tensors()
    result = MultiTaskLoss("nyud")(outputs, labels)
    assert result.parts["edge"].item() == pytest.approx(figures()["loss/edge@pos_weight=0.8"], abs=1e-5)


def test_small_logits_are_upsampled():
    outputs, targets = _batch((3, 4), (6, 8))
    result = MultiTaskLoss(PAIR)(outputs, targets)
    up = F.interpolate(outputs["semseg"], size=(6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result.parts["semseg"], F.cross_entropy(up, targets["semseg"]))


@pytest.mark.parametrize("absent", ["missing", "none", "ignored"])
@pytest.mark.parametrize("balancing", ["fixed", "uncertainty", "dwa"])
def test_absent_task_is_exactly_zero_even_with_nan_logits(absent, balancing):
    outputs, targets = _batch()
    outputs["semseg"] = torch.full_like(outputs["semseg"], math.nan).requires_grad_()
    if absent == "missing":
        del targets["semseg"]
    else:
        targets["semseg"] = None if absent == "none" else torch.full_like(targets["semseg"], 255)
    criterion = MultiTaskLoss(PAIR, balancing=balancing, validate=False)
    result = criterion(outputs, targets)
    result.total.backward()
    assert result.parts["semseg"] == 0
    assert result.labelled["semseg"] == 0
    assert (outputs["semseg"].grad == 0).all()
    assert outputs["depth"].grad.abs().sum() > 0
    assert all(parameter.grad.isfinite().all() for parameter in criterion.parameters())


def test_nan_logits_of_an_image_without_labels_are_no_error():
    outputs, targets = _batch()
    expected = MultiTaskLoss(PAIR)({k: v[:1] for k, v in outputs.items()}, {k: v[:1] for k, v in targets.items()})
    dirty = {name: logits.detach().clone() for name, logits in outputs.items()}
    for name in PAIR:
        targets[name][1] = 255
        dirty[name][1] = math.nan
        dirty[name].requires_grad_()
    result = MultiTaskLoss(PAIR)(dirty, targets)
    result.total.backward()
    torch.testing.assert_close(result.total, expected.total)
    assert all((logits.grad[1] == 0).all() and logits.grad[0].abs().sum() > 0 for logits in dirty.values())


def test_ignored_image_weighs_nothing():
    outputs, targets = _batch()
    alone = MultiTaskLoss(PAIR)({k: v[:1] for k, v in outputs.items()}, {k: v[:1] for k, v in targets.items()})
    targets["semseg"][1] = 255
    targets["depth"][1] = 255
    result = MultiTaskLoss(PAIR)(outputs, targets)
    torch.testing.assert_close(result.total, alone.total)
    assert result.labelled["semseg"] == 48


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_tasks_may_differ(dtype):
    outputs, targets = _batch()
    expected = MultiTaskLoss(PAIR)(outputs, targets)
    outputs["semseg"] = outputs["semseg"].to(dtype)
    result = MultiTaskLoss(PAIR)(outputs, targets)
    torch.testing.assert_close(result.total.float(), expected.total, rtol=1e-2, atol=1e-2)
    assert result.parts["semseg"].dtype == torch.promote_types(dtype, torch.float32)


def test_batch_without_any_label_is_zero():
    outputs, _ = _batch()
    result = MultiTaskLoss(PAIR)(outputs, {})
    result.total.backward()
    assert result.total == 0
    assert all((logits.grad == 0).all() for logits in outputs.values())


def test_parts_of_an_image_without_people_do_not_count():
    parts = BUILTIN["human_parts"]
    logits = torch.randn(2, 7, 4, 4)
    target = torch.zeros(2, 4, 4)
    target[0, 0, 0] = 3
    target[1, 0, 0] = 255
    result = MultiTaskLoss({"human_parts": parts})({"human_parts": logits}, {"human_parts": target})
    assert result.labelled["human_parts"] == 16
    torch.testing.assert_close(result.parts["human_parts"], cross_entropy(logits[:1], target[:1]))
    every = dataclasses.replace(parts, foreground_only=False)
    result = MultiTaskLoss({"human_parts": every})({"human_parts": logits}, {"human_parts": target})
    assert result.labelled["human_parts"] == 31


def height_loss(logits, target, *, ignore_index, scale=1.0):
    valid = target != ignore_index
    return scale * (logits[valid] - target[valid]).square().mean()


@pytest.mark.parametrize("declared", ["function", "name"])
def test_own_task_with_own_loss(declared):
    if declared == "name":
        register_loss("height_test")(height_loss)
    loss = height_loss if declared == "function" else "height_test"
    task = Task(name="height", channels=1, loss=loss, loss_args={"scale": 3.0}, loss_weight=2.0)
    criterion = MultiTaskLoss({"height": task})
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[1.0, 2.0], [255.0, 3.0]]]])
    assert criterion({"height": logits}, {"height": target}).total.item() == pytest.approx(2 * 3 * 14 / 3)
    # Its mean over no pixel would be NaN: it is not asked.
    result = criterion({"height": logits}, {"height": torch.full_like(target, 255)})
    result.total.backward()
    assert result.total == 0
    assert (logits.grad == 0).all()


def test_loss_that_is_no_scalar_is_named():
    task = Task(name="height", channels=1, loss=lambda logits, target, *, ignore_index: logits)
    with pytest.raises(ValueError, match=r"'height': expected its loss to return a scalar tensor, got \(1, 1, 2, 2\)"):
        MultiTaskLoss({"height": task})({"height": torch.zeros(1, 1, 2, 2)}, {"height": torch.zeros(1, 1, 2, 2)})


def test_step_epoch_reaches_dwa():
    outputs, targets = _batch()
    criterion = MultiTaskLoss(PAIR, balancing="dwa")
    for factor in (1.0, 2.0):
        targets["depth"] = targets["depth"] * factor
        criterion(outputs, targets)
        criterion.step_epoch()
    weights = criterion(outputs, targets).weights
    assert weights["depth"] > 1 > weights["semseg"]
    MultiTaskLoss(PAIR).step_epoch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"edge": 1.0}}, r"unknown tasks \['edge'\]"),
        ({"weights": {"depth": -1.0}}, "`weights` >= 0"),
        ({"weights": {"depth": math.nan}}, "`weights` >= 0"),
        ({"balancing": "pcgrad"}, "`balancing` to be one of .*'pcgrad'"),
        ({"balancing": "dwa", "temperature": -1}, "temperature"),
    ],
)
def test_bad_constructor_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss(PAIR, **arguments)


def test_unknown_loss_is_an_error_only_when_it_is_needed():
    task = Task.from_dict({"name": "height", "channels": 1, "loss": "somewhere_else"})
    with pytest.raises(ValueError, match=r"'height' names the loss 'somewhere_else'.*register_loss"):
        MultiTaskLoss({"height": task})


@pytest.mark.parametrize(
    ("task", "logits", "target", "message"),
    [
        ("semseg", None, torch.full((2, 6, 8), 4), r"'semseg': label 4 found; expected labels in \[0, 3\], or 255"),
        ("semseg", None, torch.full((2, 6, 8), -1), "'semseg': label -1 found"),
        ("semseg", None, torch.full((2, 6, 8), 1.5), "'semseg': class labels must be whole numbers"),
        ("semseg", None, torch.zeros(2, 3, 6, 8), r"'semseg': expected labels of shape \(B, 1, H, W\) or \(B, H, W\)"),
        ("semseg", None, torch.zeros(1, 6, 8), "'semseg': logits hold 2 images but labels 1"),
        ("semseg", None, torch.zeros(2, 6, 8, dtype=torch.bool), "'semseg': expected integer or floating-point labels"),
        ("semseg", None, torch.zeros(2, 5, 8), "logits no larger than the labels"),
        ("semseg", torch.zeros(2, 5, 6, 8), torch.zeros(2, 6, 8), r"'semseg': expected logits of shape \(B, 4, H, W\)"),
        ("semseg", torch.zeros(2, 4, 6, 8).long(), torch.zeros(2, 6, 8), "'semseg': expected floating-point logits"),
        ("semseg", torch.full((2, 4, 6, 8), math.nan), torch.zeros(2, 6, 8), "'semseg': logits hold NaN or infinite"),
        ("semseg", None, [[0]], "'semseg': expected tensors"),
        ("depth", torch.full((2, 1, 6, 8), math.inf), torch.ones(2, 6, 8), "'depth': logits hold NaN or infinite"),
        ("depth", None, torch.full((2, 6, 8), math.nan), "'depth': label nan found; expected labels finite"),
        ("depth", None, torch.full((2, 6, 8), math.inf), "'depth': label inf found"),
    ],
)
def test_bad_batches_name_the_task(task, logits, target, message):
    outputs, targets = _batch()
    targets[task] = target
    if logits is not None:
        outputs[task] = logits
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss(PAIR)(outputs, targets)


@pytest.mark.parametrize(("task", "value"), [("normals", 128.0), ("edge", 2.0), ("sal", 2.0), ("human_parts", 7.0)])
def test_label_ranges_of_the_other_tasks(task, value):
    outputs, labels = tensors()
    labels = {task: labels[task].clone()}
    labels[task][0, 0, 0, 0] = value
    if task == "normals":
        labels[task][0, :, 0, 0] = value
    with pytest.raises(ValueError, match=f"'{task}': label {value:g} found"):
        MultiTaskLoss({task: TASKS[task]})(outputs, labels)


def test_missing_logits():
    with pytest.raises(ValueError, match=r"`outputs` lacks logits of tasks \['depth'\]"):
        MultiTaskLoss(PAIR)({"semseg": torch.zeros(1, 4, 2, 2)}, {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    outputs, labels = tensors()
    cpu = MultiTaskLoss(TASKS)(outputs, labels)
    device = MultiTaskLoss(TASKS).cuda()(
        {k: v.cuda() for k, v in outputs.items()}, {k: v.cuda() for k, v in labels.items()}
    )
    torch.testing.assert_close(device.total.cpu(), cpu.total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [MultiTaskLoss, MultiTaskMetrics])
def test_depth_below_zero_is_no_label(kind):
    """-1 marks missing depth in several data sets; taken for a depth, it would be learnt."""
    checked = kind({"depth": 1})
    call = checked if kind is MultiTaskLoss else checked.update
    with pytest.raises(ValueError, match="Task 'depth': label -1 found; expected labels finite and >= 0"):
        call({"depth": torch.ones(1, 1, 4, 4)}, {"depth": torch.full((1, 4, 4), -1.0)})


@pytest.mark.parametrize("kind", [MultiTaskLoss, MultiTaskMetrics])
def test_normals_that_are_no_directions(kind):
    """(128, 128, 128) of a picture decodes to almost nothing, which normalised is a direction like any other."""
    logits, target = {"normals": torch.randn(1, 3, 4, 4)}, torch.nn.functional.normalize(torch.randn(1, 3, 4, 4), dim=1)
    target[0, :, 0, 0], target[0, :, 1, 1] = 0, 255
    checked = kind({"normals": 3})
    call = checked if kind is MultiTaskLoss else checked.update
    call(logits, {"normals": target})
    call(logits, {"normals": torch.where(target == 255, target, target * 0.97)})
    target[0, :, 2, 2] = 1 / 255
    with pytest.raises(ValueError, match=r"Task 'normals': a normal's length is 0\.99 away from 1"):
        call(logits, {"normals": target})


def test_zero_normals_are_not_counted_as_labelled():
    target = torch.nn.functional.normalize(torch.randn(1, 3, 4, 4), dim=1)
    target[0, :, :2] = 0
    criterion = MultiTaskLoss({"normals": 3})
    assert criterion({"normals": torch.randn(1, 3, 4, 4)}, {"normals": target}).labelled["normals"] == 8
    empty = criterion({"normals": torch.randn(1, 3, 4, 4)}, {"normals": torch.zeros(1, 3, 4, 4)})
    assert empty.labelled["normals"] == 0
    assert empty.total == 0


@pytest.mark.parametrize("kind", [MultiTaskLoss, MultiTaskMetrics])
def test_the_ignore_index_is_no_class_by_default(kind):
    with pytest.raises(ValueError, match="Task 'words': 255 marks pixels without label and is one of its 256 classes"):
        kind({"words": Task(name="words", channels=256, activation="argmax", loss="cross_entropy", metric="miou")})
    words = Task(
        name="words", channels=256, activation="argmax", loss="cross_entropy", metric="miou", ignore_index=65535
    )
    target = torch.tensor([[[255, 65535]]])
    logits = torch.zeros(1, 256, 1, 2)
    logits[0, 255] = 9.0
    checked = kind({"words": words})
    if kind is MultiTaskLoss:
        assert checked({"words": logits}, {"words": target}).labelled["words"] == 1
    else:
        checked.update({"words": logits}, {"words": target})
        assert checked.compute()["words/miou"] == pytest.approx(1 / 256)
