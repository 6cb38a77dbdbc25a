"""Each block alone: shapes, sizes from 1×1, arguments and errors. Their values are tested in test_reference.py."""

import pytest
import torch

from demt.layers import (
    ChannelMixer,
    DeformableMixer,
    GatingAttention,
    LinearNeck,
    PatchNeck,
    SpatialDeformable,
    TapNeck,
    TaskHead,
    TaskInteractionBlock,
    TaskQueryBlock,
)
from demt.layers.blocks import neighbourhood_grid

D = 12
MAP_TO_MAP = [
    ChannelMixer(D),
    SpatialDeformable(D),
    SpatialDeformable(D, offset_groups=3),
    SpatialDeformable(D, offset_groups=1, initial_offsets="zero"),
    DeformableMixer(D, depth=2),
    GatingAttention(D),
    TaskInteractionBlock(D, heads=3),
    TaskInteractionBlock(D, heads=3, attention="global"),
]
QUERIES = [TaskQueryBlock(D, heads=2, attention=mode) for mode in ("pixelwise", "linear", "global")]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 5)])
@pytest.mark.parametrize("block", MAP_TO_MAP, ids=lambda b: type(b).__name__)
def test_map_to_map(block, size):
    x = torch.randn(2, D, *size, requires_grad=True)
    y = block.train()(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("block", QUERIES, ids=lambda b: b.attention)
def test_queries(block, tasks):
    x, fused = torch.randn(2, D, 3, 4), torch.randn(2, tasks, D, 3, 4)
    assert block(x, fused).shape == x.shape
    if tasks == 1:
        torch.testing.assert_close(block(x, fused[:, 0]), block(x, fused))


def test_stacked_maps_are_the_maps_one_by_one():
    stacked = torch.randn(2, 3, D, 4, 5)
    for block in (GatingAttention(D), TaskInteractionBlock(D)):
        torch.testing.assert_close(block(stacked)[:, 1], block(stacked[:, 1]))


def test_tokens_of_one_image_do_not_reach_another():
    fused = torch.randn(2, 3, D, 4, 5)
    for block in QUERIES:
        x = torch.randn(2, D, 4, 5)
        before = block(x, fused)
        changed = fused.clone()
        changed[1] += 1
        torch.testing.assert_close(block(x, changed)[0], before[0])


def test_pixelwise_sees_one_pixel_and_global_sees_all():
    fused, x = torch.randn(1, 3, D, 4, 5), torch.randn(1, D, 4, 5)
    changed = fused.clone()
    changed[..., 2, 2] += 1
    for block in QUERIES:
        moved = (block(x, changed) - block(x, fused)).abs().amax(1)[0] > 1e-7
        assert moved[2, 2]
        assert moved.all() == (block.attention != "pixelwise")


def test_zero_offsets_sample_the_pixel_itself():
    block = SpatialDeformable(D, initial_offsets="zero")
    x = torch.randn(2, D, 5, 6)
    assert not block.offsets(x).any()
    torch.testing.assert_close(block(x), block.proj(x))


def test_released_offsets_start_from_coordinates():
    block = SpatialDeformable(D)
    assert not block.position.weight.any()
    assert block.offsets(torch.randn(1, D, 40, 40)).abs().max() > 5


def test_grid_is_one_based_and_in_row_order():
    grid = neighbourhood_grid(4, 6, torch.float32, torch.device("cpu"))[0]
    assert grid.shape == (18, 4, 6)
    assert [grid[k, 2, 3].item() for k in range(9)] == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert [grid[9 + k, 2, 3].item() for k in range(9)] == [3, 4, 5, 3, 4, 5, 3, 4, 5]


def test_gating_starts_as_a_gate_of_ones():
    block = GatingAttention(D)
    assert not block.gate.weight.any()
    assert (block.gate.bias == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8)])
@pytest.mark.parametrize("neck", [LinearNeck([3, 4, 5, 6], D), PatchNeck([3, 4, 5, 6], D)])
def test_necks(neck, size):
    levels = [torch.randn(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip((3, 4, 5, 6), (1, 2, 4, 8))]
    step = 1 if isinstance(neck, LinearNeck) else 4
    assert neck(levels).shape == (2, D, -(-size[0] // step), -(-size[1] // step))


def test_tap_neck_upsamples():
    assert TapNeck([3, 4], D, scale=2)([torch.randn(1, 3, 5, 4), torch.randn(1, 4, 5, 4)]).shape == (1, D, 10, 8)


def test_task_head_size():
    head = TaskHead(D, 3, hidden_channels=5)
    assert head(torch.randn(1, D, 4, 4)).shape == (1, 3, 4, 4)
    assert head(torch.randn(1, D, 4, 4), (15, 17)).shape == (1, 3, 15, 17)
    assert head.logits.weight.std() < 0.03
    assert not head.logits.bias.any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ChannelMixer(0), "`channels` to be an integer >= 1, got 0"),
        (lambda: SpatialDeformable(8, offset_groups=3), "`offset_groups` to divide `channels`"),
        (lambda: SpatialDeformable(8, initial_offsets="none"), "one of \\('released', 'zero'\\), got 'none'"),
        (lambda: TaskInteractionBlock(8, heads=3), "`heads` to divide `channels`"),
        (lambda: TaskInteractionBlock(8, attention="softmax"), "`attention` to be one of"),
        (lambda: TaskQueryBlock(8, attention="pointwise"), "`attention` to be one of"),
        (lambda: TaskQueryBlock(8, attention="linear", pre_norm=False), "`pre_norm` to be True"),
        (lambda: GatingAttention(8, hidden_channels=7), "`hidden_channels` to be even, got 7"),
        (lambda: DeformableMixer(8, depth=0), "`depth` to be an integer >= 1, got 0"),
        (lambda: LinearNeck([], 8), "one entry per level"),
        (lambda: LinearNeck(8, 8), "one entry per level, got 8"),
        (lambda: TaskHead(8, True), "`out_channels` to be an integer"),
    ],
)
def test_constructor_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ChannelMixer(4)(torch.randn(3, 5, 5)), r"`x` of shape \(B, 4, H, W\), got \(3, 5, 5\)"),
        (lambda: SpatialDeformable(4)(torch.randn(1, 5, 5, 5)), r"`x` of shape \(B, 4, H, W\), got \(1, 5, 5, 5\)"),
        (lambda: GatingAttention(4)(torch.ones(1, 4, 2, 2, dtype=torch.int64)), "floating dtype, got torch.int64"),
        (lambda: TaskHead(4, 1)([1, 2]), "got list"),
        (lambda: TaskQueryBlock(4)(torch.randn(1, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)), "same batch and size"),
        (
            lambda: LinearNeck([4, 4], 4)([torch.randn(1, 4, 2, 2), torch.randn(2, 4, 1, 1)]),
            "the same batch, got .1, 2.",
        ),
        (lambda: LinearNeck([4], 4)([torch.randn(1, 4, 2, 2)] * 2), "Expected 1 `levels`, got 2"),
        (lambda: PatchNeck([4], 4)([torch.randn(1, 3, 2, 2)]), r"`levels\[0\]` of shape"),
    ],
)
def test_input_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
