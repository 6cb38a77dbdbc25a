"""What tools of others make of our models: layers are torch's own classes, and operators tell what they cost."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import demt
from demt.inference.cost import count_multiply_adds


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantize_dynamic_takes_every_linear_layer():
    quantization = pytest.importorskip("torch.ao.quantization")
    if not hasattr(quantization, "quantize_dynamic"):
        pytest.skip("this torch has no quantize_dynamic")
    model = demt.create_model("demt", backbone="vit_tiny_patch16_224", depth=1, width=32, heads=2, tasks={"depth": 1})
    model.eval()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    quantized = quantization.quantize_dynamic(model, {nn.Linear})
    changed = [n for n, m in quantized.named_modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear)]
    assert changed == linear
    assert any(name.startswith("backbone") for name in linear)
    assert any(name.startswith("head") for name in linear)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, got = model(images)["depth"], quantized(images)["depth"]
    rms = (got - expected).square().mean().sqrt() / expected.std()
    assert 0 < rms < 0.2


def test_torchs_counter_counts_what_we_count():
    model = demt.create_model("demt_nano", depth=1).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 64, 96))
    assert counter.get_total_flops() // 2 == count_multiply_adds(model.config, (64, 96))
    # Without the formulas registered beside the operators they would be missing.
    assert counter.get_flop_counts()["Global"][torch.ops.demt.deform_mix] > 0.1 * counter.get_total_flops()
