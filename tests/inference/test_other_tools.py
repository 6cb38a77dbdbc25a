"""What tools of others make of our models: layers are torch's own classes, and operators tell what they cost."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import demt
from demt.inference.cost import count_multiply_adds
from demt.ops.runtime import standard_operators


def deform_mix_multiply_adds(x, hidden, offset_weight, offset_bias, weight, bias):
    """Of sizes, as docs/benchmarks.md has it: the offsets, four a sample, and the product of the channels."""
    batch, channels, height, width = x
    return batch * height * width * (offset_weight[0] * 81 + 4 * channels + weight[0] * channels)


def for_fvcore(inputs, outputs):
    return deform_mix_multiply_adds(*(each.type().sizes() for each in inputs))


def for_ptflops(inputs, outputs):
    return deform_mix_multiply_adds(*(each.shape for each in inputs))


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


def test_the_counter_finds_the_same_in_torchs_own_operators():
    """But for sampling, which it does not count there: eight a sample."""
    tasks = {"semseg": 5, "normals": 3}
    model = demt.create_model("demt", backbone="resnet10t", depth=1, width=32, heads=2, tasks=tasks).eval()
    images, counts = torch.randn(2, 3, 64, 96), []
    for context in (contextlib.nullcontext(), standard_operators()):
        with torch.no_grad(), context, FlopCounterMode(display=False) as counter:
            outputs = model(images)
        counts.append(counter.get_total_flops())
    assert set(outputs) == set(tasks)
    assert counts[0] == counts[1] + 8 * len(tasks) * 2 * 32 * (64 // 4) * (96 // 4)


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao_converts_every_linear_layer(config):
    torchao = pytest.importorskip("torchao.quantization")
    model = demt.create_model("demt_nano", tasks={"depth": 1}, initial_offsets="zero").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)["depth"]
    torchao.quantize_(model, getattr(torchao, config)())
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert layers
    assert not any(type(layer.weight) in (torch.Tensor, nn.Parameter) for layer in layers)
    with torch.inference_mode():
        rms = (model(images)["depth"] - expected).square().mean().sqrt() / expected.std()
    assert 0 < rms < 0.2


def test_fvcore_counts_the_operator_that_it_is_told_of():
    fvcore = pytest.importorskip("fvcore.nn")
    model = demt.create_model("demt", backbone="resnet10t", depth=1, width=32, heads=2, tasks={"depth": 1}).eval()
    images, counts = torch.randn(1, 3, 64, 96), []
    for context in (contextlib.nullcontext(), standard_operators()):
        with context:
            analysis = fvcore.FlopCountAnalysis(model, images).set_op_handle("demt::deform_mix", for_fvcore)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            counts.append(analysis.total())
    assert counts[0] == counts[1]


def test_ptflops_counts_the_operator_that_it_is_told_of():
    ptflops = pytest.importorskip("ptflops")
    model = demt.create_model("demt", backbone="resnet10t", depth=1, width=32, heads=2, tasks={"depth": 1}).eval()
    options = {"as_strings": False, "print_per_layer_stat": False, "backend": "aten"}

    def count(**hooks):
        return ptflops.get_model_complexity_info(model, (3, 64, 96), **options, **hooks)[0]

    told = count(custom_modules_hooks={torch.ops.demt.deform_mix: for_ptflops})
    with standard_operators():
        plain = count()
    # It counts what is added to a product, and no sampling.
    assert told == pytest.approx(plain, rel=1e-3)
    assert count() < 0.99 * told
