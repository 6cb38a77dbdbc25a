import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from demt.ops import linear
from demt.ops.pointwise import _Linear, _onednn_takes
from demt.ops.runtime import has_onednn_linear, onednn_linear

needs_onednn = pytest.mark.skipif(
    not has_onednn_linear(), reason="needs a CPU with AVX-512 and torch built with oneDNN"
)

SHAPES = [((5, 7), 3), ((2, 3, 4, 7), 9), ((1, 1), 1), ((300, 64), 256)]


def views(x):
    """The same values in other memory layouts."""
    yield x
    yield x.mT.contiguous().mT
    yield torch.cat([x, x], -1)[..., : x.shape[-1]]
    yield torch.stack([x, x], -2)[..., 0, :]


@pytest.mark.parametrize(("shape", "out"), SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_torch_on_any_layout(shape, out, with_bias):
    x, weight = torch.randn(shape), torch.randn(out, shape[-1])
    bias = torch.randn(out) if with_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    for each in views(x):
        for matrix in views(weight):
            torch.testing.assert_close(linear(each, matrix, bias).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_equal_torchs(with_bias):
    x, weight = torch.randn(3, 5, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    bias = torch.randn(6, requires_grad=True) if with_bias else None
    inputs = [each for each in (x, weight, bias) if each is not None]
    grad = torch.randn(3, 5, 6)
    got = torch.autograd.grad(linear(x, weight, bias), inputs, grad)
    expected = torch.autograd.grad(F.linear(x, weight, bias), inputs, grad)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@needs_onednn
@pytest.mark.filterwarnings("ignore:.*double precision:UserWarning")
def test_second_gradients():
    x, weight, bias = (torch.randn(size, requires_grad=True) for size in ((4, 3), (2, 3), (2,)))
    # In float32: the operator has no other type.
    check = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert gradcheck(_Linear.apply, (x, weight, bias), **check)
    assert gradgradcheck(_Linear.apply, (x, weight, bias), **check)


@needs_onednn
def test_gradients_under_vmap():
    x, weight = torch.randn(5, 3), torch.randn(2, 3, requires_grad=True)
    out = linear(x, weight)
    rows = torch.eye(out.numel()).view(-1, *out.shape)
    (got,) = torch.autograd.grad(out, weight, rows, is_grads_batched=True)
    (expected,) = torch.autograd.grad(F.linear(x, weight), weight, rows, is_grads_batched=True)
    torch.testing.assert_close(got, expected)


@needs_onednn
def test_what_onednn_takes():
    x, weight = torch.randn(4, 3), torch.nn.Parameter(torch.randn(2, 3))
    assert _onednn_takes(x, weight, None)
    assert not _onednn_takes(x.double(), weight.double(), None)
    assert not _onednn_takes(x.to("meta"), weight.to("meta"), None)
    assert not _onednn_takes(x[:0], weight, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert not _onednn_takes(x, weight, None)
        assert linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert not _onednn_takes(x, weight, None)

    class Quantised(torch.Tensor):
        pass

    assert not _onednn_takes(x, weight.detach().as_subclass(Quantised), None)
    assert onednn_linear(x, weight.detach()).shape == (4, 2)


def test_graphs_hold_torchs_own_operator():
    x, weight = torch.randn(4, 3), torch.randn(2, 3)
    program = torch.export.export(_Module(), (x, weight))
    assert "linear" in str(program.graph)
    assert "mkldnn" not in str(program.graph)
    traced = torch.jit.trace(_Module(), (x, weight))
    assert "mkldnn" not in str(traced.graph)


def test_forward_mode_and_function_transforms():
    x, tangent, weight = torch.randn(4, 3), torch.randn(4, 3), torch.randn(2, 3)
    with dual_level():
        out = unpack_dual(linear(make_dual(x, tangent), weight))
        torch.testing.assert_close(out.tangent, tangent @ weight.mT)
    torch.testing.assert_close(torch.func.vmap(linear, (0, None))(x, weight), x @ weight.mT)
    got = torch.func.grad(lambda w: linear(x, w).square().sum())(weight)
    torch.testing.assert_close(got, 2 * (x @ weight.mT).mT @ x)


class _Module(torch.nn.Module):
    def forward(self, x, weight):
        return linear(x, weight)
