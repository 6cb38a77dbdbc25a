"""Window and deformable attention as blocks: what they see, at any size, alone and in a batch, compiled and exported.

Their numbers are compared with loops in tests/ops/test_twins.py.
"""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from demt.layers import TaskInteractionBlock, TaskQueryBlock
from demt.ops import points_on_rays
from tests.conftest import deviation, needs_export
from tests.export.test_export import needs_onnx
from tests.ops.test_operators import needs_compiler

D = 12
BLOCKS = {
    "interaction, window": lambda: TaskInteractionBlock(D, heads=3, attention="window", window=4),
    "interaction, shifted window": lambda: TaskInteractionBlock(D, heads=3, attention="window", window=4, shift=1),
    "interaction, deformable": lambda: TaskInteractionBlock(D, heads=3, attention="deformable", points=2),
    "query, window": lambda: TaskQueryBlock(D, heads=3, attention="window", window=4),
    "query, shifted window": lambda: TaskQueryBlock(D, heads=3, attention="window", window=4, shift=3, pre_norm=True),
    "query, deformable": lambda: TaskQueryBlock(D, heads=3, attention="deformable", points=2),
    "query, deformable, norms": lambda: TaskQueryBlock(D, heads=3, attention="deformable", pre_norm=True),
}
every_block = pytest.mark.parametrize("name", BLOCKS)


def lively(name):
    """A block whose points depend on the maps and lie between pixels."""
    block = BLOCKS[name]()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


def inputs(name, batch, tasks, height, width):
    fused = torch.randn(batch, tasks, D, height, width)
    return (fused,) if name.startswith("interaction") else (torch.randn(batch, D, height, width), fused)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 8), (6, 5)])
@pytest.mark.parametrize("tasks", [1, 3])
@every_block
def test_sizes_tasks_and_gradients(name, tasks, size):
    block, given = BLOCKS[name](), inputs(name, 2, tasks, *size)
    given = tuple(each.requires_grad_() for each in given)
    out = block(*given)
    assert out.shape == given[0].shape
    (out * torch.randn_like(out)).sum().backward()
    for tensor in [*given, *block.parameters()]:
        assert torch.isfinite(tensor.grad).all()
    if tasks == 1:
        *x, fused = given
        torch.testing.assert_close(block(*x, fused[:, 0]), out[:, 0] if not x else out)


@every_block
def test_an_image_does_not_depend_on_its_batch(name):
    block, given = lively(name), inputs(name, 3, 2, 6, 5)
    together = block(*given)
    for i in range(3):
        torch.testing.assert_close(block(*(each[i : i + 1] for each in given)), together[i : i + 1])
    given[-1][1] += 1
    torch.testing.assert_close(block(*given)[[0, 2]], together[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("shift", [0, 3])
def test_what_a_window_sees(shift):
    """Each pixel sees all pixels and tasks of its own window and nothing else."""
    block = TaskInteractionBlock(D, heads=2, attention="window", window=4, shift=shift).double()
    maps = torch.randn(1, 2, D, 9, 10, dtype=torch.float64)
    before = block(maps)
    windows = [[(i - shift) // 4 for i in range(side)] for side in (9, 10)]
    for i, j in ((0, 0), (2, 3), (8, 9), (5, 7)):
        changed = maps.clone()
        changed[0, 1, :, i, j] += 1
        moved = (block(changed) - before).abs().amax(2)[0] > 1e-12
        same = torch.tensor([[a == windows[0][i] and b == windows[1][j] for b in windows[1]] for a in windows[0]])
        assert (moved == same).all()


def test_new_deformable_attention_is_a_mean_over_points_on_rays():
    """Four heads look right, down, left and up, at one and two pixels, with equal weights, whatever the query."""
    block = TaskQueryBlock(8, heads=4, attention="deformable", points=2).double()
    x, fused = torch.randn(1, 8, 7, 7, dtype=torch.float64), torch.randn(1, 3, 8, 7, 7, dtype=torch.float64)
    values = block.value(fused.movedim(2, -1))[0]
    i, j = 3, 3
    heads = []
    for head, (row, column) in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0))):
        near, far = (values[:, i + k * row, j + k * column, 2 * head : 2 * head + 2] for k in (1, 2))
        heads.append((near + far).mean(0) / 2)
    expected = x[0, :, i, j] + block.norm(block.linear(block.proj(torch.cat(heads))))
    torch.testing.assert_close(block(x, fused)[0, :, i, j], expected)
    assert not block.query.weight.any()
    assert not block.key.weight.any()


@pytest.mark.parametrize("heads", [1, 2, 5, 8])
def test_rays_go_round(heads):
    offsets = points_on_rays(heads, 3).view(heads, 3, 3)
    assert not offsets[..., 2].any()
    torch.testing.assert_close(offsets[..., :2].abs().amax(2), torch.tensor([1.0, 2.0, 3.0]).expand(heads, 3))
    assert len({tuple(direction) for direction in offsets[:, 0, :2].round(decimals=3).tolist()}) == heads


@every_block
def test_learning_moves_every_parameter(name):
    block, given = BLOCKS[name](), inputs(name, 2, 3, 6, 5)
    before = copy.deepcopy(block.state_dict())
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    target = torch.randn_like(given[0])
    for _ in range(3):
        optimiser.zero_grad()
        (block(*given) - target).square().mean().backward()
        optimiser.step()
    for key, parameter in block.state_dict().items():
        assert not torch.equal(parameter, before[key]), key


@every_block
def test_half_precision(name):
    block, given = lively(name).eval(), inputs(name, 2, 2, 6, 5)
    expected = block(*given)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = block(*given)
    for found in (under_autocast, copy.deepcopy(block).bfloat16()(*(each.bfloat16() for each in given))):
        assert (found.float() - expected).square().mean().sqrt() < 0.1 * expected.std()


@pytest.mark.parametrize(
    ("backend", "dynamic"),
    [
        ("aot_eager", False),
        ("aot_eager", True),
        pytest.param("inductor", False, marks=[needs_compiler, pytest.mark.slow]),
    ],
)
@pytest.mark.parametrize("name", ["interaction, shifted window", "interaction, deformable", "query, deformable, norms"])
def test_compiles_without_a_graph_break(name, backend, dynamic):
    torch.compiler.reset()
    block = lively(name)
    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=dynamic)
    for size in ((6, 5), (9, 12)) if dynamic else ((6, 5),):
        given = inputs(name, 2, 2, *size)
        parameters = list(block.parameters())
        out, expected = compiled(*given), block(*given)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
        grads = [torch.autograd.grad(each.square().sum(), parameters) for each in (out, expected)]
        for ours, eager in zip(*grads):
            torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-3)


@needs_export
@needs_onnx
@pytest.mark.parametrize("name", ["interaction, shifted window", "query, deformable, norms"])
def test_onnx_of_a_block_alone_at_any_size(name, tmp_path):
    import onnxruntime

    from demt.ops.runtime import open_sizes, standard_operators

    block = lively(name).eval()
    names = ("stacked",) if name.startswith("interaction") else ("x", "fused")
    auto = torch.export.Dim.AUTO
    dims = tuple({0: auto, len(s) - 2: auto, len(s) - 1: auto} for s in (g.shape for g in inputs(name, 3, 2, 9, 11)))
    with torch.no_grad(), standard_operators(), open_sizes():
        program = torch.export.export(block, inputs(name, 3, 2, 9, 11), dynamic_shapes=dims)
        written = torch.onnx.export(program, input_names=names, opset_version=20, dynamo=True, verbose=False)
    written.save(str(tmp_path / "block.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
    for batch, size in ((1, (2, 3)), (2, (8, 12)), (4, (13, 6))):
        given = inputs(name, batch, 2, *size)
        with torch.no_grad():
            expected = block(*given)
        (found,) = session.run(None, {name: each.numpy() for name, each in zip(names, given)})
        assert deviation(torch.from_numpy(found), expected) < 1e-4
        assert deviation(program.module()(*given), expected) < 1e-4


@pytest.mark.parametrize("device", ["cpu", "meta"])
@every_block
def test_multiply_adds_are_counted_and_linear_in_pixels(name, device):
    block, tasks = BLOCKS[name]().to(device), 2
    asking = tasks if name.startswith("interaction") else 1
    projections = asking * (block.query.weight.numel() + D * D) + tasks * (block.key.weight.numel() + D * D)
    # Products of a query with keys, and with values; four corners a sample.
    samples = 4 * block.query.out_features // 3 // 3 if "deformable" in name else 2 * 4**2
    for height, width in ((64, 64), (64, 128)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            block(*(each.to(device) for each in inputs(name, 1, tasks, height, width)))
        counted = counter.get_total_flops() / 2 / (height * width)
        # Shifted windows reach beyond the map, by a window a side.
        assert counted == pytest.approx(
            projections + asking * tasks * D * samples, rel=0.1 if "shifted" in name else 0.01
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: TaskInteractionBlock(8, heads=3, attention="window"),
            "`heads` to divide.*pass heads=2 or another divisor",
        ),
        (
            lambda: TaskQueryBlock(6, heads=4, attention="deformable"),
            "`heads` to divide.*pass heads=3 or another divisor",
        ),
        (lambda: TaskInteractionBlock(8, attention="window", window=0), "`window` to be an integer >= 1, got 0"),
        (lambda: TaskQueryBlock(8, attention="window", window=2.5), "`window` to be an integer >= 1, got 2.5"),
        (
            lambda: TaskQueryBlock(8, attention="window", window=4, shift=4),
            "`shift` to be an integer from 0 to 3.*got 4",
        ),
        (lambda: TaskQueryBlock(8, attention="window", shift=True), "`shift` to be an integer from 0 to 7.*got True"),
        (lambda: TaskInteractionBlock(8, attention="deformable", points=0), "`points` to be an integer >= 1, got 0"),
        (
            lambda: TaskInteractionBlock(8, attention="swin"),
            "'pointwise', 'global', 'window', 'deformable'.*got 'swin'",
        ),
    ],
)
def test_constructor_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@every_block
def test_input_errors(name):
    given = inputs(name, 2, 2, 4, 5)
    with pytest.raises(ValueError, match=r"of shape .*, got \(2, 2, 11, 4, 5\)"):
        BLOCKS[name]()(*given[:-1], given[-1][:, :, :11])
    with pytest.raises(ValueError, match="floating dtype"):
        BLOCKS[name]()(*given[:-1], given[-1].long())
