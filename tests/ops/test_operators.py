"""The operators as torch sees them: one node to compile and export, whose shape function and derivative agree."""

import shutil
import sys

import pytest
import torch
from torch import Tensor, nn

import demt.ops  # noqa: F401  (registers the operators)
from demt.ops import deform_mix, deform_sample
from tests.ops import test_deform_mix, test_deform_sample

needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="torch.compile's default backend needs a C++ compiler",
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        _, _, *parameters = test_deform_mix.make(1, 4, 4, 4, 1, 1, torch.float32)
        self.parameters_of_mix = nn.ParameterList(parameters)

    def forward(self, x: Tensor, hidden: Tensor, offset: Tensor) -> Tensor:
        return deform_mix(x, hidden, *self.parameters_of_mix).relu() + deform_sample(2 * x, offset)


def inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    x, hidden, *_ = test_deform_mix.make(1, 4, 4, 4, height, width, torch.float32)
    return x, hidden, test_deform_sample.make(1, 4, 4, height, width, torch.float32)[1]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(requires_grad, dtype):
    x, offset = test_deform_sample.make(2, 6, 3, 4, 5, dtype)
    torch.library.opcheck(
        torch.ops.demt.deform_sample.default, (x.requires_grad_(requires_grad), offset.requires_grad_(requires_grad))
    )
    arguments = [each.requires_grad_(requires_grad) for each in test_deform_mix.make(2, 4, 4, 3, 4, 5, dtype)]
    torch.library.opcheck(torch.ops.demt.deform_mix.default, arguments)


def test_opcheck_of_the_derivatives():
    x, offset = test_deform_sample.make(2, 6, 3, 4, 5)
    torch.library.opcheck(torch.ops.demt.deform_sample_backward.default, (torch.ones_like(x), x, offset))
    arguments = test_deform_mix.make(2, 4, 4, 4, 4, 5)[:5]
    for needs in ((True, True), (True, False), (False, True)):
        grad = torch.ones_like(arguments[0])
        torch.library.opcheck(torch.ops.demt.deform_mix_backward.default, (grad, *arguments, *needs))


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    [("aot_eager", False), ("aot_eager", True), pytest.param("inductor", False, marks=needs_compiler)],
)
def test_compiles_without_a_graph_break(backend, dynamic):
    torch.compiler.reset()
    block = Block()
    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=dynamic)
    for height, width in ((5, 6), (7, 9)) if dynamic else ((5, 6),):
        given = inputs(height, width)
        expected = block(*given)
        grads = torch.autograd.grad(expected.square().sum(), list(block.parameters()))
        out = compiled(*given)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        for ours, eager in zip(torch.autograd.grad(out.square().sum(), list(block.parameters())), grads):
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4)


def test_compiles_under_autocast():
    torch.compiler.reset()
    compiled = torch.compile(Block(), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = compiled(*inputs(5, 6))
        torch.testing.assert_close(out, Block()(*inputs(5, 6)), rtol=1e-2, atol=1e-2)


def test_exports_with_sizes_left_open():
    block = Block()
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    sizes = {2: height, 3: width}
    program = torch.export.export(block, inputs(5, 6), dynamic_shapes=dict.fromkeys(("x", "hidden", "offset"), sizes))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("demt.deform_sample.default") == targets.count("demt.deform_mix.default") == 1
    for given in (inputs(5, 6), inputs(8, 11)):
        torch.testing.assert_close(program.module()(*given), block(*given))
