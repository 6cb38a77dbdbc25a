import math

import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional as F

from demt.losses import balanced_bce, balanced_cross_entropy, cross_entropy, l1, normals_l1
from tests.golden_losses import figures, tensors

LOSSES = {
    "semseg": cross_entropy,
    "human_parts": cross_entropy,
    "sal": balanced_cross_entropy,
    "normals": normals_l1,
    "depth": l1,
    "edge": balanced_bce,
}


@pytest.mark.parametrize("task", [task for task in LOSSES if task != "edge"])
def test_equals_released_loss(task):
    outputs, labels = tensors()
    loss = LOSSES[task](outputs[task], labels[task])
    assert loss.item() == pytest.approx(figures()[f"loss/{task}"], abs=1e-5)


@pytest.mark.parametrize("pos_weight", [0.8, 0.95])
def test_equals_released_edge_loss(pos_weight):
    outputs, labels = tensors()
    loss = balanced_bce(outputs["edge"], labels["edge"], pos_weight=pos_weight)
    assert loss.item() == pytest.approx(figures()[f"loss/edge@pos_weight={pos_weight}"], abs=1e-5)


@pytest.mark.parametrize("w", [0.3, 0.8, 0.95])
def test_edge_loss_equals_plain_formula(w):
    outputs, labels = tensors()
    valid = labels["edge"] != 255
    x, y = outputs["edge"][valid].double(), labels["edge"][valid].double()
    expected = -(w * y * torch.log(x.sigmoid()) + (1 - w) * (1 - y) * torch.log(1 - x.sigmoid())).mean()
    loss = balanced_bce(outputs["edge"], labels["edge"], pos_weight=w)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_saliency_balance_equals_sklearn_weights():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 6, 5, generator=generator) < 0.2).long()
    weight = torch.from_numpy(compute_sample_weight("balanced", target.flatten().numpy())).view_as(target)
    per_pixel = F.cross_entropy(logits, target, reduction="none")
    share = target.double().mean()
    # scikit-learn's weights n/(2·n_class) have mean 1; ours are 2p(1−p) times as large.
    expected = (per_pixel * weight).mean() * 2 * share * (1 - share)
    torch.testing.assert_close(balanced_cross_entropy(logits, target), expected)


def _case(task, *, ignored=0.3, size=(2, 3, 4)):
    generator = torch.Generator().manual_seed(1)
    batch, height, width = size
    channels = {"semseg": 5, "human_parts": 5, "sal": 2, "normals": 3, "depth": 1, "edge": 1}[task]
    logits = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    if task == "normals":
        target = F.normalize(torch.randn(logits.shape, generator=generator, dtype=torch.float64), dim=1)
    elif task == "depth":
        target = torch.rand(logits.shape, generator=generator, dtype=torch.float64) + 5
    else:
        target = torch.randint(0, 5 if channels == 5 else 2, (batch, 1, height, width), generator=generator)
    mask = torch.rand(batch, 1, height, width, generator=generator) < ignored
    return logits.requires_grad_(), target.masked_fill(mask, 255), mask


@pytest.mark.parametrize("task", LOSSES)
def test_gradients_are_those_of_the_value(task):
    logits, target, _ = _case(task)
    assert torch.autograd.gradcheck(lambda x: LOSSES[task](x, target), (logits,))


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf])
def test_ignored_logits_do_not_matter(task, rubbish):
    logits, target, mask = _case(task)
    clean = LOSSES[task](logits, target)
    (expected,) = torch.autograd.grad(clean, logits)
    dirty = logits.detach().masked_fill(mask, rubbish).requires_grad_()
    loss = LOSSES[task](dirty, target)
    loss.backward()
    assert loss.item() == clean.item()
    torch.testing.assert_close(dirty.grad, expected)
    assert (dirty.grad[mask.expand_as(dirty)] == 0).all()


@pytest.mark.parametrize("task", LOSSES)
def test_fully_ignored_map_is_exactly_zero(task):
    logits, target, _ = _case(task)
    logits = torch.full_like(logits, math.nan).requires_grad_()
    loss = LOSSES[task](logits, torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("task", [task for task in LOSSES if task != "normals"])
def test_label_without_channel_axis(task):
    logits, target, _ = _case(task)
    assert LOSSES[task](logits, target) == LOSSES[task](logits, target[:, 0])


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_logits_are_computed_in_float32(task, dtype):
    logits, target, _ = _case(task)
    low = logits.detach().to(dtype)
    loss = LOSSES[task](low, target)
    assert loss.dtype == torch.float32
    assert loss == LOSSES[task](low.float(), target)


def test_zero_normals_are_no_label():
    logits, target, _ = _case("normals", ignored=0)
    marked, zeroed = target.clone(), target.clone()
    marked[:, :, 0], zeroed[:, :, 0] = 255, 0
    assert normals_l1(logits, marked) == normals_l1(logits, zeroed)


def test_bad_arguments():
    logits = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="two-class"):
        balanced_cross_entropy(logits, torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="pos_weight"):
        balanced_bce(logits[:, :1], torch.zeros(1, 2, 2), pos_weight=1)
    with pytest.raises(ValueError, match=r"shape \(B, H, W\) or \(B, 1, H, W\), got \(1, 3, 2, 2\)"):
        cross_entropy(logits, logits)
    with pytest.raises(ValueError, match="the same size"):
        cross_entropy(logits, torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="logits' shape"):
        normals_l1(logits, torch.zeros(1, 3, 4, 4))
