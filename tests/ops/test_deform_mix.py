"""`deform_mix` on torch's kernels against torchvision's deformable convolution, and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from demt.ops import deform_kept, deform_mix, deform_mix_reference, deform_sample, grid_sample

NAMES = ["x", "hidden", "offset_weight", "offset_bias", "weight", "bias"]

# B, C, G, D, H, W: an odd G makes one offset group read both halves of the hidden map.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 4, 4, 3, 1, 1),
    (2, 6, 6, 5, 1, 7),
    (2, 6, 3, 4, 5, 9),
    (3, 4, 1, 4, 11, 1),
    (2, 8, 2, 8, 13, 17),
    (1, 20, 20, 12, 9, 8),
]


def make(batch, channels, groups, mixed, height, width, dtype=torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    return [
        normal(batch, channels, height, width),
        normal(batch, 18, height, width),
        0.2 * normal(2 * groups, 9, 3, 3),
        normal(2 * groups),
        normal(mixed, channels),
        normal(mixed),
    ]


def torchvision_mix(x, hidden, offset_weight, offset_bias, weight, bias) -> Tensor:
    offset = F.conv2d(hidden, offset_weight, offset_bias, padding=1, groups=2)
    return deform_conv2d(x, offset, weight[:, :, None, None], bias)


def value_and_gradients(function, arguments: list[Tensor]) -> list[Tensor]:
    arguments = [each.detach().requires_grad_() for each in arguments]
    out = function(*arguments)
    grad = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, arguments, grad)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("witness", [torchvision_mix, deform_mix_reference])
@pytest.mark.parametrize(("samples", "kept"), [(1, 0), (30, 0), (1 << 21, 0), (1 << 21, deform_kept.KEPT)])
def test_equals_witness_in_value_and_gradients(monkeypatch, shape, witness, samples, kept):
    monkeypatch.setitem(grid_sample.CHUNK_SAMPLES, "cpu", samples)
    monkeypatch.setattr(deform_kept, "KEPT", kept)
    arguments = make(*shape)
    results, expected = value_and_gradients(deform_mix, arguments), value_and_gradients(witness, arguments)
    for name, ours, theirs in zip(["out", *NAMES], results, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("shape", [(1, 2, 2, 3, 3, 4), (2, 4, 2, 2, 2, 3), (1, 3, 1, 2, 3, 2)])
def test_gradcheck(shape):
    arguments = [each.requires_grad_() for each in make(*shape)]
    # A small step and no position nearer to a whole pixel than the step reaches.
    offset = F.conv2d(*arguments[1:4], padding=1, groups=2)
    assert (offset - offset.round()).abs().min() > 1e-5
    assert torch.autograd.gradcheck(deform_mix, arguments, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.05, 1.0])
def test_float32_at_the_scale_of_coordinates(scale):
    """The hidden map carries absolute coordinates, so offsets reach tens of pixels and most samples are outside."""
    arguments = make(1, 8, 8, 8, 56, 72, torch.float32)
    arguments[1][:, :9] += torch.arange(56)[:, None]
    arguments[1][:, 9:] += torch.arange(72)
    arguments[2] *= scale
    exact = deform_mix_reference(*(each.double() for each in arguments))
    theirs = (torchvision_mix(*arguments) - exact).abs().max()
    assert (deform_mix(*arguments) - exact).abs().max() < max(4 * theirs, 1e-4)


def test_released_layout_of_halves_and_pairs():
    """Channels 2g, 2g + 1 move group g down and right; the first G offset channels see the first 9 hidden channels."""
    x = torch.arange(2 * 5 * 6.0).reshape(1, 2, 5, 6)
    hidden = torch.zeros(1, 18, 5, 6)
    hidden[:, 0], hidden[:, 9] = 1, 1
    weight = torch.zeros(4, 9, 3, 3)
    weight[0, 0, 1, 1] = 1  # channel 0, one row down, from the first half
    weight[3, 0, 1, 1] = 2  # channel 1, two columns right, from the second half
    out = deform_mix(x, hidden, weight, None, torch.eye(2), None)
    torch.testing.assert_close(out[0, 0, :4], x[0, 0, 1:], rtol=0, atol=1e-3)
    torch.testing.assert_close(out[0, 1, :, :4], x[0, 1, :, 2:], rtol=0, atol=1e-3)


def test_biases_may_be_none():
    x, hidden, offset_weight, offset_bias, weight, bias = make(1, 4, 4, 3, 5, 6)
    zeros = deform_mix(x, hidden, offset_weight, torch.zeros_like(offset_bias), weight, torch.zeros_like(bias))
    assert torch.equal(deform_mix(x, hidden, offset_weight, None, weight, None), zeros)


@pytest.mark.parametrize("wanted", [[index] for index in range(6)] + [[4, 5], [0, 4], [1, 2, 3]])
def test_gradients_of_some_arguments_only(wanted):
    arguments = make(2, 4, 4, 3, 5, 6)
    full = value_and_gradients(lambda *given: deform_mix(*given).square(), arguments)[1:]
    for index in wanted:
        arguments[index].requires_grad_()
    out = deform_mix(*arguments).square()
    out.backward(torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    for index, (argument, expected) in enumerate(zip(arguments, full)):
        if index in wanted:
            torch.testing.assert_close(argument.grad, expected, rtol=1e-12, atol=1e-12)
        else:
            assert argument.grad is None


def test_layout_of_the_inputs_does_not_matter():
    arguments = make(2, 4, 4, 3, 5, 6)
    strided = [torch.stack([each, each], -1)[..., 0] for each in arguments]
    strided[0] = arguments[0].contiguous(memory_format=torch.channels_last)
    strided[4] = arguments[4].mT.contiguous().mT
    for ours, expected in zip(value_and_gradients(deform_mix, strided), value_and_gradients(deform_mix, arguments)):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("hidden_dtype", [None, torch.float32])
def test_half_precision_is_float32_rounded(monkeypatch, dtype, hidden_dtype):
    monkeypatch.setattr(deform_kept, "KEPT", 0)  # half precision is computed without keeping anything
    arguments = make(1, 4, 4, 3, 6, 9, torch.float32)
    arguments = [each.to(dtype if n in (0, 4, 5) else hidden_dtype or dtype) for n, each in enumerate(arguments)]
    results = value_and_gradients(deform_mix, arguments)
    expected = value_and_gradients(deform_mix, [each.float() for each in arguments])
    torch.testing.assert_close(results[0], expected[0].to(dtype), rtol=0, atol=0)
    for argument, ours, wide in zip(arguments, results[1:], expected[1:]):
        assert ours.dtype == argument.dtype
        scale = max(1.0, wide.abs().max().item())
        torch.testing.assert_close(ours.float() / scale, wide / scale, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_autocast_gives_its_own_type_and_keeps_positions_in_float32():
    arguments = [each.requires_grad_() for each in make(1, 4, 4, 3, 6, 9, torch.float32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = deform_mix(*arguments)
        out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(each.grad.dtype == torch.float32 for each in arguments)
    low = [each.detach().bfloat16() if n in (0, 4, 5) else each.detach() for n, each in enumerate(arguments)]
    assert torch.equal(out, deform_mix(*low))


@pytest.mark.parametrize("value", [1e30, -3e38, float("inf"), float("nan")])
def test_offsets_that_are_no_positions_do_no_harm(value):
    arguments = make(1, 4, 4, 3, 6, 9, torch.float32)
    arguments[3][2] = value  # rows of channel 1
    out = value_and_gradients(deform_mix, arguments)[0]
    without = arguments[4].clone()
    without[:, 1] = 0
    if value == value:
        arguments[3][2] = 0
        torch.testing.assert_close(out, deform_mix(*arguments[:4], without, arguments[5]), rtol=1e-4, atol=1e-4)
    else:
        assert torch.isnan(out).all()


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 5, 6), (1, 4, 4, 3, 0, 6), (1, 4, 4, 3, 5, 0), (1, 4, 4, 0, 5, 6)])
def test_empty_maps(shape):
    out, *grads = value_and_gradients(deform_mix, make(*shape))
    assert out.shape == (shape[0], *shape[3:])
    assert all(torch.all(each == 0) for each in grads[:5])


def peak_in_maps(function, x: Tensor, *others: Tensor) -> float:
    """Most memory held at a time by what `function` allocates, in maps of x's size, from torch's own allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function(x, *others)
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda each: each.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / (x.numel() * x.element_size())


def test_memory_at_full_size():
    """256 channels at 112 x 144. The offsets alone would be two maps, their convolution's columns 0.6."""
    arguments = make(1, 256, 256, 256, 112, 144, torch.float32)
    assert 1 < peak_in_maps(deform_mix, *arguments) < 3
    offset = F.conv2d(*arguments[1:4], padding=1, groups=2)
    assert 1 < peak_in_maps(deform_sample, arguments[0], offset) < 3
    assert peak_in_maps(torchvision_mix, *arguments) > 4  # the yardstick measures something


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(4, 5, 6)}, ValueError, "`x` of shape"),
        ({"x": torch.zeros(1, 4, 5, 6, dtype=torch.int64)}, TypeError, "`x` to be float32"),
        ({"hidden": torch.zeros(1, 9, 5, 6)}, ValueError, r"`hidden` of shape \(1, 18, 5, 6\).*got \(1, 9, 5, 6\)"),
        ({"hidden": torch.zeros(1, 18, 5, 6).double()}, TypeError, "`hidden` to be torch.float32"),
        ({"hidden": torch.zeros(1, 18, 5, 6, device="meta")}, ValueError, "`hidden` on cpu"),
        ({"offset_weight": torch.zeros(8, 18, 3, 3)}, ValueError, r"`offset_weight` of shape \(2G, 9, 3, 3\)"),
        ({"offset_weight": torch.zeros(6, 9, 3, 3)}, ValueError, "G divides the 4 channels"),
        ({"offset_bias": torch.zeros(4)}, ValueError, r"`offset_bias` of shape \(8,\)"),
        ({"weight": torch.zeros(3, 5)}, ValueError, r"`weight` of shape \(D, 4\)"),
        ({"weight": torch.zeros(3, 4, 1, 1)}, ValueError, r"`weight` of shape \(D, 4\).*got \(3, 4, 1, 1\)"),
        ({"weight": None}, ValueError, "got NoneType"),
        ({"weight": torch.zeros(3, 4).double()}, TypeError, "`weight` to be torch.float32 as `x`"),
        ({"bias": torch.zeros(4)}, ValueError, r"`bias` of shape \(3,\)"),
    ],
)
def test_errors_name_the_argument(changed, error, message):
    arguments = dict(zip(NAMES, make(1, 4, 4, 3, 5, 6, torch.float32)))
    with pytest.raises(error, match=message):
        deform_mix(**{**arguments, **changed})
