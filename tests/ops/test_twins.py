"""Every function written for speed against its plain twin in `demt.ops.reference`: values and gradients in float64."""

import contextlib
import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from demt.ops import (
    Query,
    attention_reference,
    convolve_levels,
    convolve_levels_reference,
    deformable_attention,
    deformable_attention_reference,
    global_attention,
    interact,
    interact_and_query,
    interact_and_query_reference,
    linear_attention,
    narrow_convolution,
    narrow_convolution_reference,
    per_pixel,
    per_pixel_reference,
    pixel_attention,
    pixel_attentions,
    pointwise,
    project_levels,
    project_levels_reference,
    window_attention,
    window_attention_reference,
)
from demt.ops.runtime import standard_operators

D = 8
CHAINS = {
    "mixer": lambda: [nn.Conv2d(D, 6, 1), F.gelu, nn.BatchNorm2d(6)],
    "norm": lambda: [F.gelu, nn.BatchNorm2d(D)],
    "interaction": lambda: [nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D), nn.LayerNorm(D)],
    "without biases": lambda: [nn.LayerNorm(D), nn.Linear(D, 5, bias=False), nn.Linear(5, D)],
    "with identities": lambda: [nn.Identity(), nn.Linear(D, D), nn.Identity(), nn.Linear(D, 3, bias=False)],
    "nothing": lambda: [nn.Identity()],
}


def randomised(layers):
    for layer in layers:
        for parameter in layer.parameters() if isinstance(layer, nn.Module) else ():
            nn.init.normal_(parameter, std=0.5)
    return [layer.double() if isinstance(layer, nn.Module) else layer for layer in layers]


def same(fast, plain, inputs, parameters):
    """Equal values, and equal gradients of a random combination of them for all that has any."""
    leaves = [*inputs, *parameters]
    got, wanted = fast(), plain()
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
    weights = torch.randn_like(wanted)
    grads = [torch.autograd.grad((each * weights).sum(), leaves) for each in (got, wanted)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
def test_per_pixel(chain, residual, training):
    layers = randomised(CHAINS[chain]())
    modules = [layer.train(training) for layer in layers if isinstance(layer, nn.Module)]
    x = torch.randn(2, D, 5, 7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        channels = per_pixel_reference(x, *copy.deepcopy(layers)).shape[1]
    more = torch.randn(2, channels, 5, 7, dtype=torch.float64) if residual else None
    same(
        lambda: per_pixel(x, *layers, residual=more),
        lambda: per_pixel_reference(x, *layers, residual=more),
        [x],
        [p for module in modules for p in module.parameters()],
    )


@pytest.mark.parametrize("chain", ["interaction", "without biases", "with identities"])
def test_per_pixel_of_stacked_maps(chain):
    layers = randomised(CHAINS[chain]())
    x = torch.randn(2, 3, D, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(per_pixel(x, *layers)[:, 1], per_pixel_reference(x[:, 1], *layers), rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, D, 9, 7), (2, 3, D, 9, 7)])
def test_per_pixel_a_few_rows_at_a_time(shape, monkeypatch):
    monkeypatch.setattr(pointwise, "PIXELS", {"cpu": 30})
    layers = randomised([nn.LayerNorm(D), nn.Linear(D, 3), F.gelu])
    x = torch.randn(shape, dtype=torch.float64)
    kept, residual = x.clone(), torch.randn(*shape[:-3], 3, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        got = per_pixel(x, *layers, residual=residual)
    torch.testing.assert_close(got, per_pixel_reference(x, *layers, residual=residual), rtol=0, atol=1e-11)
    assert torch.equal(x, kept), "what comes in is left alone"


def test_per_pixel_calls_layers_that_are_not_torchs_own():
    """Adapters, quantised and parametrised layers, and layers that hooks look at, are not taken apart."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    x = torch.randn(1, D, 3, 4)
    doubled, hooked, parametrised = Doubled(D, D), nn.Linear(D, D), parametrizations.weight_norm(nn.Linear(D, D))
    seen = []
    hooked.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    for layer in (doubled, hooked, parametrised):
        expected = layer(x.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(per_pixel(x, nn.Identity(), layer), expected)
    assert seen == [(1, 3, 4, D)] * 2


ATTENTIONS = {"pixelwise": pixel_attention, "linear": linear_attention, "global": global_attention}


def attention_layers(pre_norm, bias):
    norms = [nn.LayerNorm(D) if pre_norm else nn.Identity() for _ in range(3)]
    projections = [nn.Linear(D, D, bias=bias), nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=bias)]
    return [*zip(norms, projections), (nn.Linear(D, D), nn.Linear(D, D))]


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("mode", ATTENTIONS)
def test_attention(mode, tasks, bias, pre_norm):
    groups = attention_layers(pre_norm, bias)
    for group in groups:
        randomised(group)
    x = torch.randn(2, D, 4, 3, dtype=torch.float64, requires_grad=True)
    fused = torch.randn(2, tasks, D, 4, 3, dtype=torch.float64, requires_grad=True)
    # With one token a pixel, softmax is 1 whatever the query.
    trained = [p for group in groups for layer in group for p in layer.parameters()]
    if mode == "pixelwise" and tasks == 1:
        trained = [p for layer in (*groups[2], *groups[3]) for p in layer.parameters()]
    same(
        lambda: ATTENTIONS[mode](x, fused, *groups, 2) + 0 * x,
        lambda: attention_reference(x, fused, *groups, 2, mode) + 0 * x,
        [x, fused],
        trained,
    )


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_pixel_attention_of_several_maps(bias, pre_norm, exported):
    """Each map with layers of its own; together, where there are neither norms nor missing biases, else one by one."""
    layers = [attention_layers(pre_norm, bias) for _ in range(3)]
    for group in (group for each in layers for group in each):
        randomised(group)
    maps = [torch.randn(2, D, 4, 3, dtype=torch.float64, requires_grad=True) for _ in layers]
    fused = torch.randn(2, 5, D, 4, 3, dtype=torch.float64, requires_grad=True)

    def together():
        with standard_operators() if exported else contextlib.nullcontext():
            return torch.stack(pixel_attentions(maps, fused, *zip(*layers), 2))

    same(
        together,
        lambda: torch.stack([attention_reference(x, fused, *each, 2, "pixelwise") for x, each in zip(maps, layers)]),
        [*maps, fused],
        [p for each in layers for group in each for layer in group for p in layer.parameters()],
    )


@pytest.mark.parametrize("pre_norm", [False, True])
def test_pixel_attention_a_few_pixels_at_a_time(monkeypatch, pre_norm):
    monkeypatch.setattr("demt.ops.attention.BLOCK", 300)
    groups = attention_layers(pre_norm, False)
    for group in groups:
        randomised(group)
    x = torch.randn(2, D, 4, 3, dtype=torch.float64, requires_grad=True)
    fused = torch.randn(2, 3, D, 4, 3, dtype=torch.float64, requires_grad=True)
    same(
        lambda: pixel_attention(x, fused, *groups, 2),
        lambda: attention_reference(x, fused, *groups, 2, "pixelwise"),
        [x, fused],
        [p for group in groups for layer in group for p in layer.parameters()],
    )


def layers_of_all_tasks(tasks, bias):
    """Layers of an interaction, and of the queries of all tasks."""
    interaction = randomised([*(nn.Linear(D, D, bias=bias) for _ in range(2)), nn.LayerNorm(D)])
    queries = []
    for _ in range(tasks):
        groups = attention_layers(False, bias)
        for group in groups:
            randomised(group)
        queries.append(Query(*groups, *randomised([nn.LayerNorm(D)])))
    return interaction, queries


def parameters_of(interaction, queries):
    groups = [interaction, *(group for *layers, norm in queries for group in (*layers, [norm]))]
    return [p for group in groups for layer in group for p in layer.parameters()]


@pytest.mark.parametrize("block", [600, 1 << 20])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tasks", [2, 3])
def test_interact_and_query(tasks, bias, block, monkeypatch):
    monkeypatch.setattr(interact, "BLOCK", block)
    interaction, queries = layers_of_all_tasks(tasks, bias)
    maps = [torch.randn(2, D, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(tasks)]
    assert interact.takes_one_pass(maps, interaction, queries)
    same(
        lambda: torch.stack(interact_and_query(maps, interaction, queries, 2)),
        lambda: torch.stack(interact_and_query_reference(maps, interaction, queries, 2)),
        maps,
        parameters_of(interaction, queries),
    )
    with torch.no_grad():
        got, expected = (f(maps, interaction, queries, 2) for f in (interact_and_query, interact_and_query_reference))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_derivatives_of_interact_and_query(monkeypatch):
    monkeypatch.setattr(interact, "BLOCK", 600)
    interaction, queries = layers_of_all_tasks(2, True)
    maps = [torch.randn(1, D, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    parameters = parameters_of(interaction, queries)
    value = lambda *given: tuple(interact_and_query(given[:2], interaction, queries, 2))  # noqa: E731
    assert torch.autograd.gradcheck(value, (*maps, *parameters), fast_mode=True)


def test_one_pass_is_not_for_layers_that_hooks_look_at():
    interaction, queries = layers_of_all_tasks(2, True)
    maps = [torch.randn(1, D, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert interact.takes_one_pass(maps, interaction, queries)
    for layer in (interaction[0], queries[1].key[1]):
        handle = layer.register_forward_hook(lambda *_: None)
        assert not interact.takes_one_pass(maps, interaction, queries)
        handle.remove()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_per_pixel_moves_running_statistics_as_torch_does(momentum):
    conv, norm = randomised([nn.Conv2d(D, 6, 1), nn.BatchNorm2d(6, momentum=momentum)])
    plain = copy.deepcopy(norm)
    for _ in range(2):
        x = torch.randn(3, D, 5, 7, dtype=torch.float64)
        per_pixel(x, conv, F.gelu, norm)
        per_pixel_reference(x, conv, F.gelu, plain)
    for got, wanted in zip(norm.buffers(), plain.buffers()):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ATTENTIONS)
def test_attention_calls_layers_that_hooks_look_at(mode):
    groups = attention_layers(True, False)
    x, fused = torch.randn(1, D, 3, 4), torch.randn(1, 2, D, 3, 4)
    expected = ATTENTIONS[mode](x, fused, *groups, 2)
    seen = []
    groups[1][1].register_forward_hook(lambda module, inputs, output: seen.append(output.numel()))
    torch.testing.assert_close(ATTENTIONS[mode](x, fused, *groups, 2), expected, rtol=1e-4, atol=1e-5)
    assert seen == [fused.numel()]


def maps_for_attention(asking, tasks, size):
    """Maps of `asking` tasks, or of one without that dimension for None, and those that are asked."""
    shapes = ((2, D, *size) if asking is None else (2, asking, D, *size)), (2, tasks, D, *size)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def attention_parameters(groups):
    return [p for group in groups for layer in group for p in layer.parameters()]


# Windows that fit, that do not, that are larger than the map or one of its sides, and all of that shifted.
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3), (2, 7)])
@pytest.mark.parametrize(("window", "shift"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (6, 0), (6, 4)])
def test_window_attention(window, shift, size):
    groups = attention_layers(False, True)
    for group in groups:
        randomised(group)
    for asking, tasks in ((None, 1), (3, 3), (None, 2)):
        x, fused = maps_for_attention(asking, tasks, size)
        same(
            lambda: window_attention(x, fused, *groups, 2, window=window, shift=shift),  # noqa: B023
            lambda: window_attention_reference(x, fused, *groups, 2, window=window, shift=shift),  # noqa: B023
            [x, fused],
            attention_parameters(groups),
        )


def deformable_layers(points, heads=2):
    """Layers whose points lie a few pixels away, between pixels."""
    groups = attention_layers(False, True)
    groups[0], groups[1] = [nn.Linear(D, 3 * heads * points)], [nn.Linear(D, 3 * heads * points, bias=False)]
    for group in groups:
        randomised(group)
    return groups


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3)])
@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize(("asking", "tasks"), [(None, 1), (3, 3), (None, 2)])
def test_deformable_attention(asking, tasks, points, size):
    groups = deformable_layers(points)
    x, fused = maps_for_attention(asking, tasks, size)
    same(
        lambda: deformable_attention(x, fused, *groups, 2),
        lambda: deformable_attention_reference(x, fused, *groups, 2),
        [x, fused],
        attention_parameters(groups),
    )


def test_arguments_of_attention_that_do_not_fit():
    (x, fused), groups = maps_for_attention(None, 2, (3, 4)), attention_layers(False, True)
    for window, shift in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(ValueError, match=f"`shift` from 0 to `window` - 1, got shift={shift}, window={window}"):
            window_attention(x, fused, *groups, 2, window=window, shift=shift)
    with pytest.raises(ValueError, match="a multiple of 6, got 8 and 8"):
        deformable_attention(x.float(), fused.float(), *groups, 2)


@pytest.mark.parametrize("asking", [None, 2])
@pytest.mark.parametrize("mode", ["window", "deformable"])
def test_derivatives_of_attention(mode, asking):
    groups = deformable_layers(2) if mode == "deformable" else attention_layers(False, True)
    for group in groups:
        randomised(group)
    x, fused = maps_for_attention(asking, 2, (3, 4))
    layers = nn.ModuleList(layer for group in groups for layer in group)
    names = [name for name, _ in layers.named_parameters()]
    parameters = [p.detach().requires_grad_() for p in layers.parameters()]
    attend = deformable_attention if mode == "deformable" else functools.partial(window_attention, window=3, shift=1)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x, fused):
            return attend(x, fused, *groups, 2)

    block = Attention()

    def value(x, fused, *tensors):
        given = {f"layers.{name}": tensor for name, tensor in zip(names, tensors)}
        return torch.func.functional_call(block, given, (x, fused))

    assert torch.autograd.gradcheck(value, (x, fused, *parameters), fast_mode=True)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 12)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_layers_over_a_pyramid(size, bias, patch):
    channels = (3, 4, 5, 6)
    levels = [
        torch.randn(2, c, -(-size[0] // s), -(-size[1] // s), dtype=torch.float64, requires_grad=True)
        for c, s in zip(channels, (1, 2, 4, 8))
    ]
    if patch == 1:
        layer, fast, plain = nn.Linear(sum(channels), D, bias=bias), project_levels, project_levels_reference
    else:
        layer = nn.Conv2d(sum(channels), D, patch, stride=patch, bias=bias)
        fast, plain = convolve_levels, convolve_levels_reference
    (layer,) = randomised([layer])
    same(lambda: fast(levels, layer), lambda: plain(levels, layer), levels, list(layer.parameters()))


def test_a_pyramid_under_a_layer_that_hooks_look_at():
    levels = [torch.randn(1, 3, 4, 6), torch.randn(1, 4, 2, 3)]
    for layer, fast in ((nn.Linear(7, D), project_levels), (nn.Conv2d(7, D, 2, stride=2), convolve_levels)):
        expected, seen = fast(levels, layer), []
        layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))  # noqa: B023
        torch.testing.assert_close(fast(levels, layer), expected)
        assert seen == [7 * 4 * 6]


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 7)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_narrow_convolution(size, bias, channels_last):
    layer = randomised([nn.Conv2d(D, 3, 3, padding=1, bias=bias)])[0]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, D, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    same(
        lambda: narrow_convolution(x, layer.weight, layer.bias),
        lambda: narrow_convolution_reference(x, layer.weight, layer.bias),
        [x],
        list(layer.parameters()),
    )
