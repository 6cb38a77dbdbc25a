"""The operators in torch's own against the reference, which is written differently, and in a captured graph."""

import pytest
import torch

from demt.ops import deform_mix, deform_mix_reference, deform_sample, deform_sample_reference
from demt.ops.runtime import standard_operators
from tests.ops import test_deform_mix, test_deform_sample


@pytest.mark.parametrize("shape", test_deform_mix.SHAPES)
def test_mix_equals_the_reference(shape):
    arguments = test_deform_mix.make(*shape)
    expected = deform_mix_reference(*arguments)
    with standard_operators():
        torch.testing.assert_close(deform_mix(*arguments), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 6, 3, 4, 5), (1, 4, 4, 1, 1), (1, 4, 1, 9, 2)])
def test_sample_equals_the_reference(shape):
    x, offset = test_deform_sample.make(*shape, torch.float64)
    with standard_operators():
        torch.testing.assert_close(deform_sample(x, offset), deform_sample_reference(x, offset), rtol=1e-9, atol=1e-9)


def test_float32_at_the_scale_of_coordinates():
    arguments = test_deform_mix.make(1, 8, 8, 8, 56, 72, torch.float32)
    arguments[1][:, :9] += torch.arange(56)[:, None]
    arguments[1][:, 9:] += torch.arange(72)
    exact = deform_mix_reference(*(each.double() for each in arguments))
    with standard_operators():
        assert (deform_mix(*arguments) - exact).abs().max() < 1e-3 * exact.std()


def test_graphs_have_no_operators_of_ours_only_inside():
    class Block(torch.nn.Module):
        def forward(self, x, offset):
            return deform_sample(x, offset)

    given = test_deform_sample.make(1, 4, 2, 5, 6, torch.float32)
    for inside in (False, True):
        if inside:
            with standard_operators():
                program = torch.export.export(Block(), tuple(given))
        else:
            program = torch.export.export(Block(), tuple(given))
        assert any("demt" in str(node.target) for node in program.graph.nodes) != inside
        torch.testing.assert_close(program.module()(*given), deform_sample(*given), rtol=1e-5, atol=1e-5)
