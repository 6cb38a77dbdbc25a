"""Models in 16 bits: products do, offsets and coordinates do not, and processors without the instructions are named."""

import pytest
import torch
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.inference import forward
from demt.inference.forward import autocast
from demt.layers import blocks

CPU = torch.device("cpu")


@pytest.fixture
def no_bf16(monkeypatch):
    monkeypatch.setattr(forward, "cpu_has_bf16", lambda: False)


@pytest.fixture
def bf16(monkeypatch):
    """As on a processor with bf16: elsewhere torch imitates it, with the same numbers."""
    monkeypatch.setattr(forward, "cpu_has_bf16", lambda: True)


@pytest.mark.parametrize("name", ["demt_nano", "demtg_nano", "degmix_nano"])
def test_products_are_bf16_and_offsets_are_not(name, bf16, monkeypatch):
    model, seen = demt.create_model(name, depth=1).eval(), []
    mix = blocks.deform_mix
    monkeypatch.setattr(blocks, "deform_mix", lambda *given: seen.append(given) or mix(*given))
    inside = []
    operator = torch.ops.demt.deform_mix.default

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is operator:
                inside.append([each.dtype for each in args])
            return func(*args, **(kwargs or {}))

    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        seen.clear()
        with autocast(CPU, "bf16"), Watch():
            got = model(images)
    assert len(inside) == len(seen) == len(model.tasks)
    half, full = torch.bfloat16, torch.float32
    assert all(types == [half, full, full, full, half, half] for types in inside)
    for task, maps in got.items():
        assert maps.dtype == half
        rms = (maps.float() - expected[task]).square().mean().sqrt() / expected[task].std()
        assert 0 < rms < 0.15, task


def test_offsets_are_exact_in_bf16(bf16):
    """A coordinate of 300 and something is not to be had in bf16, whose steps are 2 there."""
    layer, x = blocks.SpatialDeformable(4), torch.randn(1, 4, 3, 400)
    with torch.no_grad(), autocast(CPU, "bf16"):
        got = layer.offsets(x)
    with torch.no_grad():
        assert torch.equal(got, layer.offsets(x))


def test_float32_is_the_model_as_it_is():
    model, images = demt.create_model("degmix_nano", tasks={"depth": 1}).eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)["depth"]
        with autocast(CPU, "fp32"):
            assert torch.equal(model(images)["depth"], expected)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("half", "Expected `precision` to be one of fp32, bf16, fp16, got 'half'"),
        ("fp16", "fp32 or bf16 on a CPU, got fp16, which needs a GPU"),
        ("bf16", "This processor has no instructions for bf16 .*: use precision fp32, or another device"),
    ],
)
def test_what_does_not_run_here_is_said(precision, message, no_bf16):
    with pytest.raises(ValueError, match=message):
        autocast(CPU, precision)


def test_capabilities_are_those_of_torch(monkeypatch):
    for has, expected in ((None, True), ({"avx512_bf16": False, "avx2": True}, False), ({"amx_bf16": True}, True)):
        forward.cpu_has_bf16.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", None if has is None else lambda has=has: has, raising=False)
        assert forward.cpu_has_bf16() is expected
    forward.cpu_has_bf16.cache_clear()


def test_eval_says_so_in_one_line(no_bf16):
    arguments = ["eval", "demt_nano.rooms", "rooms", "--length", "1", "--device", "cpu", "--precision", "bf16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "has no instructions for bf16" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
