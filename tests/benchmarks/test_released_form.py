"""The reference of the benchmarks computes what our models compute."""

import pytest
import torch

import demt
from tests.benchmarks.released_form import ReleasedForm


@pytest.mark.parametrize("name", ["demt_nano", "demtg_nano", "degmix_nano"])
def test_equal_to_ours(name):
    model = demt.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        images = torch.randn(1, 3, 96, 128)
        expected, got = model(images), ReleasedForm(model).eval()(images)
    for task, value in expected.items():
        assert (got[task] - value).square().mean().sqrt() < 1e-3 * value.std()
