"""The refinement of logits at half the image's size against its formula, at any size, alone and in a batch."""

import pytest
import torch
from torch.nn import functional as F

from demt.layers import DetailRefinement, DetailStem

D, C, OUT = 4, 3, 2


def random():
    stem, refine = DetailStem(3, C).double(), DetailRefinement(D, OUT, C).double()
    for module in (stem, refine):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return stem, refine


def inputs(batch, height, width):
    x = torch.randn(batch, D, -(-height // 4), -(-width // 4), dtype=torch.float64)
    return torch.randn(batch, OUT, *x.shape[-2:], dtype=torch.float64), x


def up(maps, size):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 12), (16, 20)])
@pytest.mark.parametrize("training", [False, True])
def test_formula(size, training):
    stem, refine = (module.train(training) for module in random())
    images, (logits, x) = torch.randn(2, 3, *size, dtype=torch.float64), inputs(2, *size)
    details = stem(images)
    half = (-(-size[0] // 2), -(-size[1] // 2))
    assert details.shape == (2, C, *half)
    for conv, norm in ((stem.layers[0], stem.layers[1]), (stem.layers[3], stem.layers[4])):
        images = F.conv2d(images, conv.weight, stride=conv.stride, padding=1)
        mean, var = (images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)) if training else (0, 1)
        scale = norm.weight / (torch.as_tensor(var) + norm.eps).sqrt()
        images = ((images.movedim(1, -1) - mean) * scale + norm.bias).movedim(-1, 1).clamp_min(0)
    torch.testing.assert_close(details, images)
    hidden = torch.cat([up(F.conv2d(x, refine.proj.weight, refine.proj.bias), half), details], 1)
    hidden = refine.norm(F.conv2d(hidden, refine.conv.weight, padding=1)).clamp_min(0)
    expected = up(logits, half) + F.conv2d(hidden, refine.logits.weight, refine.logits.bias)
    torch.testing.assert_close(refine(logits, x, details), expected)


def test_a_new_refinement_changes_nothing():
    refine, (logits, x) = DetailRefinement(D, OUT, C).double(), inputs(2, 16, 24)
    details = torch.randn(2, C, 8, 12, dtype=torch.float64)
    assert torch.equal(refine(logits, x, details), up(logits, (8, 12)))


def test_gradients_are_those_of_the_value():
    stem, refine = random()
    images, (logits, x) = torch.randn(2, 3, 6, 5, dtype=torch.float64), inputs(2, 6, 5)
    tensors = [tensor.requires_grad_() for tensor in (images, logits, x)]
    assert torch.autograd.gradcheck(lambda i, *args: refine(*args, stem(i)), tensors, fast_mode=True)


def test_a_batch_equals_single_images():
    stem, refine = (module.eval() for module in random())
    images, (logits, x) = torch.randn(3, 3, 11, 8, dtype=torch.float64), inputs(3, 11, 8)
    together = refine(logits, x, stem(images))
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(refine(logits[one], x[one], stem(images[one])), together[one])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DetailStem(3, 0), "`channels` to be an integer"),
        (lambda: DetailRefinement(4, 1, "8"), "`detail_channels` to be an integer"),
        (lambda: DetailStem(3, 4)(torch.randn(1, 4, 5, 5)), "`images`"),
        (
            lambda: DetailRefinement(4, 1, 2)(torch.randn(1, 1, 5, 5), torch.randn(1, 4, 5, 5), torch.ones(1)),
            "`details`",
        ),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(ValueError, match=said):
        make()
