"""`deform_sample` against torchvision's deformable convolution, the written-out reference, and finite differences."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from demt.ops import deform_sample, deform_sample_reference, grid_sample

# B, C, G, H, W: single pixels, rows and columns, odd sides, one offset per channel, shared ones, one for all.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 6, 6, 1, 7),
    (1, 4, 2, 9, 1),
    (2, 6, 3, 5, 9),
    (3, 4, 1, 11, 2),
    (2, 8, 8, 33, 47),
]


def make(batch: int, channels: int, groups: int, height: int, width: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(height * 100 + width)
    x = torch.randn(batch, channels, height, width, dtype=dtype, generator=generator)
    return x, 3 * torch.randn(batch, 2 * groups, height, width, dtype=dtype, generator=generator)


def torchvision_sample(x: Tensor, offset: Tensor) -> Tensor:
    return deform_conv2d(x, offset, torch.eye(x.shape[1], dtype=x.dtype)[:, :, None, None])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("witness", [torchvision_sample, deform_sample_reference])
def test_equals_witness_in_value_and_gradients(shape, witness):
    x, offset = (each.requires_grad_() for each in make(*shape))
    grad = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    y, expected = deform_sample(x, offset), witness(x, offset)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out, (x, offset), grad) for out in (y, expected))
    for left, right in zip(ours, theirs):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("samples", [1, 100, 3000])
def test_chunk_length_does_not_matter(monkeypatch, samples):
    x, offset = (each.requires_grad_() for each in make(2, 6, 3, 7, 9))
    whole = deform_sample(x, offset)
    grads = torch.autograd.grad(whole.square().sum(), (x, offset))
    monkeypatch.setitem(grid_sample.CHUNK_SAMPLES, "cpu", samples)
    chunked = deform_sample(x, offset)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-14)
    for ours, expected in zip(torch.autograd.grad(chunked.square().sum(), (x, offset)), grads):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 2, 2, 3, 4), (2, 4, 2, 3, 3), (1, 4, 1, 2, 5), (1, 1, 1, 1, 1)])
def test_gradcheck(shape):
    x, offset = make(*shape)
    # Finite differences are wrong across a whole pixel: keep every position a tenth away from one.
    offset = (offset.floor() + 0.1 + 0.8 * torch.rand_like(offset)).requires_grad_()
    assert torch.autograd.gradcheck(deform_sample, (x.requires_grad_(), offset), eps=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (32, 48), (57, 201)])
def test_gradient_at_whole_pixels_is_the_one_towards_larger_positions(height, width):
    x, _ = make(1, 2, 2, height, width, torch.float32)
    offset = torch.randint(-2, 3, (1, 4, height, width), generator=torch.Generator().manual_seed(1)).float()
    x.requires_grad_(), offset.requires_grad_()
    ours = torch.autograd.grad(deform_sample(x, offset).sum(), (x, offset))
    expected = torch.autograd.grad(torchvision_sample(x, offset).sum(), (x, offset))
    for left, right in zip(ours, expected):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-3)


def test_float32_is_as_close_to_float64_as_torchvision_within_a_factor_of_four():
    x, offset = make(1, 8, 8, 112, 144, torch.float32)
    exact = deform_sample_reference(x.double(), offset.double())
    ours, theirs = ((each(x, offset) - exact).abs().max() for each in (deform_sample, torchvision_sample))
    assert ours < 4 * theirs


@pytest.mark.parametrize("value", [1e6, 1e30, -1e30, 3e38, -3e38, float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_and_infinite_offsets_sample_zero(value, dtype):
    x, offset = make(2, 3, 3, 6, 9, dtype)
    far = torch.rand(offset.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    offset = torch.where(far, torch.tensor(value, dtype=dtype), offset)
    outside = far.unflatten(1, (3, 2)).any(2)
    x.requires_grad_(), offset.requires_grad_()
    y = deform_sample(x, offset)
    grad_x, grad_offset = torch.autograd.grad(y.sum(), (x, offset))
    assert torch.all(y[outside] == 0)
    assert torch.all(grad_offset[far] == 0)
    assert torch.isfinite(grad_x).all()
    torch.testing.assert_close(y, torchvision_sample(x, offset.nan_to_num(posinf=1e4, neginf=-1e4).clamp(-1e4, 1e4)))


def test_nan_offset_gives_nan_there_and_nowhere_else():
    x, offset = make(2, 3, 3, 6, 9, torch.float32)
    expected = deform_sample(x, offset)
    offset[1, 2, 3, 4] = float("nan")
    offset.requires_grad_()
    y = deform_sample(x, offset)
    torch.autograd.grad(y.sum(), offset)
    assert torch.isnan(y).nonzero().tolist() == [[1, 1, 3, 4]]
    expected[1, 1, 3, 4] = 0
    torch.testing.assert_close(y.nan_to_num(0), expected)
    assert torch.isnan(deform_sample_reference(x, offset)).nonzero().tolist() == [[1, 1, 3, 4]]


def test_layout_of_the_inputs_does_not_matter():
    x, offset = make(2, 4, 4, 6, 9)
    expected = deform_sample(x, offset)
    for layout in (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        a, b = layout(x).requires_grad_(), layout(offset).requires_grad_()
        assert not a.is_contiguous()
        y = deform_sample(a, b)
        assert torch.equal(y, expected)
        y.sum().backward()
        assert a.grad is not None
        assert b.grad is not None


@pytest.mark.parametrize(("need_x", "need_offset"), [(True, False), (False, True)])
def test_gradient_of_one_argument_only(need_x, need_offset):
    x, offset = make(1, 2, 2, 4, 5)
    both = [each.clone().requires_grad_() for each in (x, offset)]
    deform_sample(*both).sum().backward()
    x.requires_grad_(need_x), offset.requires_grad_(need_offset)
    deform_sample(x, offset).sum().backward()
    for ours, full, need in zip((x, offset), both, (need_x, need_offset)):
        assert torch.equal(ours.grad, full.grad) if need else ours.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset_dtype", [None, torch.float32])
def test_half_precision_is_float32_rounded(dtype, offset_dtype):
    x, offset = make(1, 4, 2, 6, 9, torch.float32)
    x, offset = x.to(dtype).requires_grad_(), offset.to(offset_dtype or dtype).requires_grad_()
    y = deform_sample(x, offset)
    assert y.dtype == dtype
    wide = [each.detach().float().requires_grad_() for each in (x, offset)]
    expected = deform_sample(*wide)
    assert torch.equal(y, expected.to(dtype))
    y.sum().backward()
    expected.sum().backward()
    assert torch.equal(x.grad, wide[0].grad.to(dtype))
    assert torch.equal(offset.grad, wide[1].grad.to(offset.dtype))


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_autocast_takes_offsets_of_any_type_and_keeps_the_type_of_x(x_dtype):
    x, offset = make(1, 4, 4, 6, 9, torch.float32)
    x, offset = x.to(x_dtype).requires_grad_(), offset.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = deform_sample(x, offset)
        y.sum().backward()
    assert y.dtype == x_dtype
    assert torch.equal(y, deform_sample(x.float(), offset.float()).to(x_dtype))
    assert (x.grad.dtype, offset.grad.dtype) == (x_dtype, torch.bfloat16)


@pytest.mark.parametrize("shape", [(0, 4, 2, 3, 5), (1, 4, 2, 0, 5), (1, 4, 2, 3, 0)])
def test_empty_maps(shape):
    x, offset = (each.requires_grad_() for each in make(*shape))
    y = deform_sample(x, offset)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert offset.grad.shape == offset.shape


@pytest.mark.parametrize(
    ("x", "offset", "error", "message"),
    [
        (torch.zeros(3, 4, 5), torch.zeros(1, 6, 4, 5), ValueError, r"`x` of shape \(B, C, H, W\), got \(3, 4, 5\)"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(6, 4, 5), ValueError, "`offset` of shape"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), ValueError, "G divides the 3 channels"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 4, 4, 5), ValueError, "G divides the 3 channels"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 0, 4, 5), ValueError, "G divides the 3 channels"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 6, 5, 4), ValueError, r"\(1, 6, 4, 5\) to fit `x`, got \(1, 6, 5"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(1, 6, 4, 5), ValueError, "to fit `x`"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 6, 4, 5).double(), TypeError, r"`offset` to be torch.float32 as `x`"),
        (torch.zeros(1, 3, 4, 5).double(), torch.zeros(1, 6, 4, 5), TypeError, r"`offset` to be torch.float64"),
        (torch.zeros(1, 3, 4, 5).half(), torch.zeros(1, 6, 4, 5).double(), TypeError, "float16 or torch.float32"),
        (torch.zeros(1, 3, 4, 5).int(), torch.zeros(1, 6, 4, 5), TypeError, r"`x` to be float32.*\.float\(\)"),
        ([[1.0]], torch.zeros(1, 6, 4, 5), TypeError, "`x` to be a torch.Tensor, got list"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 6, 4, 5, device="meta"), ValueError, "`offset` on cpu.* got meta"),
    ],
)
def test_errors_name_the_argument(x, offset, error, message):
    with pytest.raises(error, match=message):
        deform_sample(x, offset)


def test_shapes_only_on_the_meta_device():
    x, offset = (each.to("meta") for each in make(2, 6, 3, 5, 9))
    assert deform_sample(x, offset).shape == x.shape


def test_second_derivative_is_refused():
    x, offset = (each.requires_grad_() for each in make(1, 2, 2, 3, 4))
    (grad,) = torch.autograd.grad(deform_sample(x, offset).square().sum(), offset, create_graph=True)
    with pytest.raises(RuntimeError, match="deform_sample_backward"):
        grad.sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    x, offset = (each.requires_grad_() for each in make(2, 6, 3, 17, 19, torch.float32))
    grads = torch.autograd.grad(deform_sample(x, offset).square().sum(), (x, offset))
    on_gpu = [each.detach().cuda().requires_grad_() for each in (x, offset)]
    y = deform_sample(*on_gpu)
    torch.testing.assert_close(y.cpu(), deform_sample(x, offset), rtol=1e-4, atol=1e-4)
    for ours, expected in zip(torch.autograd.grad(y.square().sum(), on_gpu), grads):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-3, atol=1e-3)
