"""Plain `nn.Linear` layers through oneDNN: the same numbers, and nothing else notices."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from demt.backbones import adapter, create_backbone
from demt.backbones.adapter import FastLinear, fast_linear
from demt.ops import pointwise, runtime


@pytest.fixture
def calls(monkeypatch):
    """As on a processor with AVX-512; the list fills with a mark for every product that goes through `linear`."""
    calls, linear = [], adapter.linear
    for module in (adapter, pointwise):
        monkeypatch.setattr(module, "has_onednn_linear", lambda: hasattr(torch.ops.mkldnn, "_linear_pointwise"))
    monkeypatch.setattr(adapter, "linear", lambda *given: calls.append(threading.get_ident()) or linear(*given))
    return calls


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return create_backbone("vit_tiny_patch16_224", depth=4).eval()


def gradients(backbone, images):
    backbone.zero_grad()
    sum(each.square().mean() for each in backbone(images)).backward()
    return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]


def test_a_backbones_layers_take_it_with_the_same_numbers(backbone, calls, monkeypatch):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        got = backbone(images)
    layers = sum(isinstance(m, nn.Linear) for m in backbone.modules())
    assert len(calls) == layers == 16
    trained = gradients(backbone, images)
    monkeypatch.setattr(backbone, "_has_linear", False)
    calls.clear()
    with torch.no_grad():
        expected = backbone(images)
    for each, other in zip([*got, *trained], [*expected, *gradients(backbone, images)], strict=True):
        torch.testing.assert_close(each, other, atol=1e-4, rtol=1e-4)
    assert not calls
    nn.Linear(2, 2)(torch.ones(1, 2))
    assert not calls


def test_it_is_for_this_thread_only(calls):
    layer, x = nn.Linear(4, 2), torch.ones(3, 4)
    with FastLinear():
        other = threading.Thread(target=layer, args=(x,))
        other.start()
        other.join()
        assert not calls
        layer(x)
    assert calls == [threading.get_ident()]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant, calls):
    layers, x = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)), torch.randn(3, 4, requires_grad=True)
    expected = torch.autograd.grad(layers(x).sum(), x)
    with fast_linear():
        out = checkpoint(layers, x, use_reentrant=use_reentrant)
    (got,) = (torch.autograd.grad(out.sum(), x),) if not use_reentrant else ((out.sum().backward(), x.grad)[1:],)
    torch.testing.assert_close(got, expected)


def test_checkpointed_backbone(backbone, calls):
    images = torch.randn(2, 3, 32, 32)
    backbone.train()
    expected = gradients(backbone, images)
    backbone.set_grad_checkpointing(True)
    got = gradients(backbone, images)
    backbone.set_grad_checkpointing(False)
    backbone.eval()
    for each, other in zip(got, expected, strict=True):
        torch.testing.assert_close(each, other, atol=1e-4, rtol=1e-4)


def test_autocast_hooks_flops_and_function_transforms(backbone, calls):
    images, seen = torch.randn(2, 3, 32, 32), []
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert backbone.blocks[0].mlp.fc1(images.new_ones(1, 192)).dtype == torch.bfloat16
        assert len(backbone(images)) == 4
    handle = backbone.blocks[0].mlp.fc1.register_forward_hook(lambda *given: seen.append(given[2].shape))
    with torch.no_grad():
        backbone(images)
    handle.remove()
    assert seen == [(2, 5, 768)]
    counts = []
    for wanted in (True, False):
        backbone._has_linear = wanted
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone(images)
        counts.append(counter.get_total_flops())
    backbone._has_linear = True
    assert counts[0] == counts[1] > 0

    layer, weight = nn.Linear(4, 2, bias=False), torch.randn(2, 4)
    with FastLinear():
        call = lambda w: torch.func.functional_call(layer, {"weight": w}, torch.ones(3, 4)).sum()  # noqa: E731
        torch.testing.assert_close(torch.func.grad(call)(weight), torch.full((2, 4), 3.0))
        maps = torch.func.vmap(layer)(torch.ones(5, 3, 4))
    torch.testing.assert_close(maps, layer(torch.ones(5, 3, 4)))


def test_graphs_hold_torchs_own_operator(backbone, calls):
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = backbone(images)
        calls.clear()
        program = torch.export.export(backbone, (images,))
        traced = torch.jit.trace(backbone, images, check_trace=False)
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)
        found = [program.module()(images), traced(images), compiled(images)]
    assert not calls
    assert "mkldnn" not in str(program.graph) + str(traced.graph)
    for maps in found:
        for got, want in zip(maps, expected):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_without_the_private_name_gradients_are_torchs(calls, monkeypatch):
    assert not runtime.saved_tensors_are_hooked()
    monkeypatch.delattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
    layer, x = nn.Linear(4, 2), torch.ones(3, 4)
    with FastLinear():
        layer(x)
        assert not calls
        with torch.no_grad():
            layer(x)
    assert len(calls) == 1
