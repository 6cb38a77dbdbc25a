"""The refinement of logits at half the image's size against its formula, at any size, alone and in a batch."""

import pytest
import torch
from torch.nn import functional as F

from demt.layers import DetailPyramid, DetailRefinement, DetailStem

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


class Stages(torch.nn.Module):
    """Two maps, of strides 2 and 4."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 5, 3, 2, 1)

    def forward(self, images):
        finest = self.first(images)
        return [finest, self.second(finest)]


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 12)])
def test_pyramid_of_details(size):
    pyramid = DetailPyramid(Stages(), [4, 5], C).double().eval()
    for norm in (pyramid.merge[0][1], pyramid.merge[1][1]):
        torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    details = pyramid(images)
    assert details.shape == (2, C, -(-size[0] // 2), -(-size[1] // 2))
    expected = None
    for each, lateral, (conv, norm, _) in reversed(
        list(zip(pyramid.stages(images), pyramid.laterals, pyramid.merge, strict=True))
    ):
        maps = torch.einsum("bchw,dc->bdhw", each, lateral.weight[..., 0, 0]) + lateral.bias[:, None, None]
        maps = F.conv2d(maps if expected is None else maps + up(expected, maps.shape[2:]), conv.weight, padding=1)
        scale = (norm.weight / (1 + norm.eps) ** 0.5)[:, None, None]
        expected = (maps * scale + norm.bias[:, None, None]).clamp_min(0)
    torch.testing.assert_close(details, expected)
    one_by_one = torch.cat([pyramid(image[None]) for image in images])
    torch.testing.assert_close(details, one_by_one)


def test_gradients_of_the_pyramid():
    pyramid = DetailPyramid(Stages(), [4, 5], C).double()
    images = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pyramid, [images], fast_mode=True)


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
        (lambda: DetailPyramid(Stages(), [4, 4], C)(torch.randn(1, 3, 5, 5)), "map 1 of `stages`"),
        (lambda: DetailRefinement(4, 1, "8"), "`detail_channels` to be an integer"),
        (lambda: DetailStem(3, 4)(torch.randn(1, 4, 5, 5)), "`images`"),
        (lambda: DetailPyramid(Stages(), [4], C)(torch.randn(1, 3, 5, 5)), "Expected 1 maps of `stages`, got 2"),
        (
            lambda: DetailRefinement(4, 1, 2)(torch.randn(1, 1, 5, 5), torch.randn(1, 4, 5, 5), torch.ones(1)),
            "`details`",
        ),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(ValueError, match=said):
        make()
