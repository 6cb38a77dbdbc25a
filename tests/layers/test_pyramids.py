"""Necks from other papers against torchvision and formulas written out, at any size, alone and in a batch."""

import copy

import pytest
import torch
import torchvision
from torch.nn import functional as F

from demt.layers import DPTNeck, FaPNNeck, FPNNeck, PPMNeck

CHANNELS, D = (3, 4, 5), 4
NECKS = [FPNNeck, PPMNeck, FaPNNeck, DPTNeck, lambda *channels: DPTNeck(*channels, scale=None)]
NAMES = ["fpn", "ppm", "fapn", "dpt", "dpt_pyramid"]
every_neck = pytest.mark.parametrize("build", NECKS, ids=NAMES)


def random(build):
    """In float64, with parameters away from zero: offsets of parts of a pixel, too."""
    neck = build(CHANNELS, D).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return neck


def make_levels(batch, height, width, steps=(1, 2, 4)):
    sizes = [(-(-height // step), -(-width // step)) for step in steps]
    return [torch.randn(batch, c, *size, dtype=torch.float64) for c, size in zip(CHANNELS, sizes)]


def up(maps, size):
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def normalised(maps, norm):
    return F.layer_norm(maps.movedim(1, -1), (D,), norm.weight, norm.bias).movedim(-1, 1)


@pytest.mark.parametrize("steps", [(1, 2, 4), (1, 1, 1)], ids=["pyramid", "one stride"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
@every_neck
def test_shapes_and_gradients(build, size, steps):
    neck = build(CHANNELS, D).double()
    levels = [level.requires_grad_() for level in make_levels(1, *size, steps)]
    scale = 4 if build is DPTNeck else 1
    out = neck(levels)
    assert out.shape == (1, D, scale * size[0], scale * size[1])
    (out * torch.randn_like(out)).sum().backward()
    for tensor in [*levels, *neck.parameters()]:
        assert torch.isfinite(tensor.grad).all()


@every_neck
def test_one_level(build):
    assert build([3], D)([torch.randn(2, 3, 3, 2)]).shape[:2] == (2, D)


@every_neck
def test_gradients_are_those_of_the_value(build):
    neck = random(build)
    levels = [level.requires_grad_() for level in make_levels(1, 3, 5)]
    # Offsets of whole pixels have no derivative; these have none.
    parameters = [p.detach().requires_grad_() for p in neck.parameters()]
    names = [name for name, _ in neck.named_parameters()]

    def value(*tensors):
        return torch.func.functional_call(neck, dict(zip(names, tensors[3:])), (tensors[:3],))

    assert torch.autograd.gradcheck(value, (*levels, *parameters), fast_mode=True)


@every_neck
def test_a_batch_equals_single_images(build):
    neck, levels = random(build), make_levels(3, 6, 5)
    together = neck(levels)
    for i in range(3):
        torch.testing.assert_close(neck([level[i : i + 1] for level in levels]), together[i : i + 1])


def torchvision_pyramid(neck):
    theirs = torchvision.ops.FeaturePyramidNetwork(CHANNELS, D).double()
    for block, conv in zip([*theirs.inner_blocks, *theirs.layer_blocks], [*neck.lateral, *neck.smooth]):
        block[0].load_state_dict(conv.state_dict())
    return theirs


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8)])
def test_fpn_is_the_sum_of_torchvisions(size):
    neck, levels = random(FPNNeck), make_levels(2, *size)
    maps = torchvision_pyramid(neck)({str(i): level for i, level in enumerate(levels)}).values()
    expected = normalised(sum(up(each, size) for each in maps), neck.norm)
    torch.testing.assert_close(neck(levels), expected)


@pytest.mark.parametrize("size", [(1, 1), (20, 52)])
def test_ppm_pools_before_the_pyramid(size):
    """The coarsest level has 5 rows, fewer than the bins, and 13 columns, which no number of bins divides."""
    neck, levels = random(PPMNeck), make_levels(2, *size)
    pooling, coarsest = neck.lateral[-1], levels[-1]
    grids = [coarsest]
    for bins, conv in zip((1, 2, 3, 6), pooling.grids):
        grids.append(up(F.relu(conv(F.adaptive_avg_pool2d(coarsest, bins))), coarsest.shape[-2:]))
    pooled = F.relu(pooling.join(torch.cat(grids, 1)))
    fpn = FPNNeck((3, 4, D), D).double()
    fpn.load_state_dict({n: p for n, p in neck.state_dict().items() if not n.startswith("lateral.2.")}, strict=False)
    fpn.lateral[-1] = torch.nn.Identity()
    torch.testing.assert_close(neck(levels), fpn([*levels[:-1], pooled]))


def fapn_by_torchvision(neck, levels, aligned):
    """The formula, with torchvision's deformable convolution of a 1×1 identity, or no alignment at all."""
    selected = []
    for level, module in zip(levels, neck.lateral):
        weight = torch.sigmoid(module.importance(F.adaptive_avg_pool2d(level, 1)))
        selected.append(module.select(level * (1 + weight)))
    maps = selected[-1:]
    for i in (1, 0):
        enlarged = up(maps[0], selected[i].shape[-2:])
        if aligned:
            offsets = neck.offsets[i](torch.cat([selected[i], enlarged], 1))
            identity = torch.eye(D, dtype=torch.float64)[:, :, None, None]
            enlarged = torchvision.ops.deform_conv2d(enlarged, offsets, identity)
        maps.insert(0, selected[i] + enlarged)
    total = sum(up(conv(each), levels[0].shape[-2:]) for conv, each in zip(neck.smooth, maps))
    return normalised(total, neck.norm)


@pytest.mark.parametrize("groups", [1, 2, None])
def test_fapn_equals_torchvisions_deformable_convolution(groups):
    neck, levels = random(lambda *channels: FaPNNeck(*channels, offset_groups=groups)), make_levels(2, 7, 5)
    found = neck(levels)
    torch.testing.assert_close(found, fapn_by_torchvision(neck, levels, aligned=True))
    assert not torch.allclose(found, fapn_by_torchvision(neck, levels, aligned=False))


def test_fapn_starts_without_alignment():
    neck, levels = FaPNNeck(CHANNELS, D).double(), make_levels(2, 7, 5)
    torch.testing.assert_close(neck(levels), fapn_by_torchvision(neck, levels, aligned=False))


def residual(maps, unit):
    hidden = F.conv2d(maps.clamp_min(0), unit.conv1.weight, unit.conv1.bias, padding=1)
    return maps + F.conv2d(hidden.clamp_min(0), unit.conv2.weight, unit.conv2.bias, padding=1)


def fuse(neck, maps):
    """DPT's order: residual units, upsampling, then the 1×1 convolution."""
    x = residual(maps[2], neck.refine[2])
    for i in (1, 0):
        x = F.conv2d(up(x, maps[i].shape[-2:]), neck.project[i + 1].weight, neck.project[i + 1].bias)
        x = residual(x + residual(maps[i], neck.residual[i]), neck.refine[i])
    return normalised(F.conv2d(x, neck.project[0].weight, neck.project[0].bias), neck.norm)


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_dpt_reassembles_and_fuses(size):
    """Taps at 2, 1 and 1/2 of their size."""
    neck, levels = random(lambda *channels: DPTNeck(*channels, scale=2)), make_levels(2, *size, steps=(1, 1, 1))
    first, second, third = neck.reassemble
    x = F.conv2d(levels[0], first[0].weight, first[0].bias)
    finer = x.new_zeros(2, D, 2 * size[0], 2 * size[1])
    for i in range(2):
        for j in range(2):
            tap = first[1].weight[:, :, i, j]
            finer[:, :, i::2, j::2] = torch.einsum("bchw,cd->bdhw", x, tap) + first[1].bias[:, None, None]
    maps = [F.conv2d(finer, first[2].weight, padding=1)]
    x = F.conv2d(levels[1], second[0].weight, second[0].bias)
    maps.append(F.conv2d(x, second[1].weight, padding=1))
    x = F.conv2d(levels[2], third[0].weight, third[0].bias)
    # All positions, of which every second is kept.
    x = F.conv2d(x, third[1].weight, third[1].bias, padding=1)[:, :, ::2, ::2]
    maps.append(F.conv2d(x, third[2].weight, padding=1))
    torch.testing.assert_close(neck(levels), fuse(neck, maps))


def test_dpt_fuses_the_levels_of_a_pyramid():
    neck, levels = random(NECKS[-1]), make_levels(2, 7, 5)
    maps = [F.conv2d(level, conv.weight, padding=1) for level, (conv,) in zip(levels, neck.reassemble)]
    torch.testing.assert_close(neck(levels), fuse(neck, maps))


@pytest.mark.parametrize("scale", [1, 8])
def test_dpt_upsamples_by_its_scale(scale):
    neck = DPTNeck([4] * 4, D, scale=scale)
    assert neck([torch.randn(1, 4, 3, 5)] * 4).shape == (1, D, 3 * scale, 5 * scale)


@every_neck
def test_half_precision(build):
    neck, levels = random(build).float(), [level.float() for level in make_levels(1, 6, 5)]
    expected = neck(levels)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = neck(levels)
    for found in (under_autocast, copy.deepcopy(neck).bfloat16()([level.bfloat16() for level in levels])):
        assert (found.float() - expected).square().mean().sqrt() < 0.1 * expected.std()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FPNNeck([], 8), "one entry per level"),
        (lambda: PPMNeck([4], 0), "`channels` to be an integer >= 1, got 0"),
        (lambda: PPMNeck([4], 8, bins=(1, 0)), r"`bins\[1\]` to be an integer >= 1, got 0"),
        (lambda: FaPNNeck([4, 4], 8, offset_groups=3), "`offset_groups` to divide `channels`, got offset_groups=3"),
        (lambda: DPTNeck([4], 8, scale=0), "`scale` to be an integer >= 1, got 0"),
        (lambda: DPTNeck([4], 8, scale=3), "`scale` to be a power of two or None, got 3"),
    ],
)
def test_constructor_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([torch.randn(1, 3, 2, 2)], "Expected 3 `levels`, got 1"),
        ([torch.randn(1, 3, 4, 4), torch.randn(1, 3, 2, 2), torch.randn(1, 5, 1, 1)], r"`levels\[1\]` of shape"),
        ([torch.randn(b, c, 2, 2) for b, c in zip((1, 2, 1), CHANNELS)], "the same batch, got .1, 2, 1."),
    ],
)
@every_neck
def test_input_errors(build, levels, message):
    with pytest.raises(ValueError, match=message):
        build(CHANNELS, D)(levels)
