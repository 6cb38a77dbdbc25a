"""Looking inside: the points are those that the operator samples, and shares are those of a plain softmax."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.inference.attention import attended, shares
from demt.inference.explain import explain
from demt.inference.explain_pictures import offsets_picture, points_picture, table_picture
from demt.inference.explain_save import save_explanation
from demt.layers import TaskInteractionBlock, TaskQueryBlock

TASKS = {"semseg": 4, "depth": 1, "normals": 3}
SIZE = (64, 96)


def make(name="demt_nano", **options):
    torch.manual_seed(0)
    return demt.create_model(name, tasks=TASKS, **options).eval()


def image(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def with_known_offsets(model, task, offsets):
    """The same offsets (rows, columns) of the map's cells at every cell, whatever the image."""
    spatial = model.head.mixers[task].blocks[0].spatial
    with torch.no_grad():
        for parameter in (spatial.position.weight, spatial.position.bias, spatial.offset.weight):
            parameter.zero_()
        spatial.offset.bias.copy_(torch.as_tensor(offsets).flatten())
    return spatial


@pytest.mark.parametrize(("size", "max_size"), [(SIZE, None), ((128, 192), 96), ((63, 90), None)])
def test_points_are_where_the_operator_reads(size, max_size):
    """The operator itself, on maps that hold the coordinates of the image: what it gives is where it read.

    A cell of such a map holds the mean coordinate of the part of the image that it lies over; sampling coordinates
    bilinearly gives the coordinates of the point.
    """
    model = make()
    width = model.config.width
    offsets = torch.randn(width, 2) * 1.5
    offsets[0] = 0
    spatial = with_known_offsets(model, "depth", offsets)
    found = explain(model, image(size), max_size=max_size)
    rows, columns = found.grid
    pixel = (size[1] // 2 + 3, size[0] // 2 - 5)
    row, column = found.cell(pixel)
    points = found.points("depth", pixel)
    xs, ys = ((torch.arange(n * m).add(0.5) / m - 0.5).view(m, n).mean(1) for n, m in zip(size[::-1], (columns, rows)))
    ramps = [xs.expand(rows, columns), ys[:, None].expand(rows, columns)]
    low, high = np.array([xs[0], ys[0]]), np.array([xs[-1], ys[-1]])
    # Between the middles of the outermost cells; beyond, the zeros around the map are mixed in.
    whole = ((points.xy >= low) & (points.xy <= high)).all(1)
    assert whole.sum() > width // 2
    with torch.no_grad():
        spatial.proj.weight.copy_(torch.eye(width)[..., None, None])
        spatial.proj.bias.zero_()
        read = [spatial(ramp.expand(1, width, -1, -1).contiguous())[0, :, row, column] for ramp in ramps]
    np.testing.assert_allclose(points.xy[whole], torch.stack(read, 1).numpy()[whole], atol=1e-3)
    assert points.origin == pytest.approx(tuple(points.xy[0]))
    assert abs(points.origin[0] - pixel[0]) <= size[1] / columns / 2
    assert abs(points.origin[1] - pixel[1]) <= size[0] / rows / 2


def test_offsets_by_the_formula():
    """With 4 pixels a cell, (i + Δ + 1/2)·4 − 1/2, of the offsets that the operator says it has."""
    model = make(offset_groups=8)
    found = explain(model, image())
    assert found.grid == (16, 24)
    kept = {}
    model.head.mixers["depth"].blocks[0].spatial.register_forward_pre_hook(lambda module, args: kept.update(x=args[0]))
    with torch.no_grad():
        model(demt.preprocess(model, image()))
        delta = model.head.mixers["depth"].blocks[0].spatial.offsets(kept["x"])[0]
    row, column = found.cell((50, 30))
    assert (row, column) == (7, 12)
    wanted = [
        ((column + dx + 0.5) * 4 - 0.5, (row + dy + 0.5) * 4 - 0.5) for dy, dx in delta[:, 7, 12].view(8, 2).tolist()
    ]
    np.testing.assert_allclose(found.points("depth", (50, 30)).xy, wanted, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        found.offsets("depth")[:, :, 7, 12], np.array(wanted) - (49.5, 29.5), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("groups", [None, 8])
def test_contributions_add_up_to_the_output(groups):
    """One group alone at a time, with the others' columns of the projection zero."""
    model = make(offset_groups=groups)
    with torch.no_grad():
        model.head.mixers["depth"].blocks[0].spatial.offset.bias.normal_(0, 2)
    found = explain(model, image())
    operator = found._operators["depth"][0]
    points, (row, column) = found.points("depth", (40, 20)), found.cell((40, 20))
    count = len(points.xy)
    weight, x = operator.module.proj.weight, operator.x.clone()
    parts, size = [], weight.shape[1] // count
    with torch.no_grad():
        offsets = operator.module.offsets(x)
        sampled = demt.ops.deform_sample(x, offsets)[0, :, row, column]
        for group in range(count):
            columns = slice(group * size, (group + 1) * size)
            parts.append(weight[:, columns, 0, 0] @ sampled[columns])
        total = torch.stack(parts).sum(0) + operator.module.proj.bias
        torch.testing.assert_close(total, operator.module(x)[0, :, row, column], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(points.contribution, torch.stack(parts).norm(dim=1).numpy(), rtol=1e-3, atol=1e-6)
    assert not points.contribution[~points.inside].any()


def test_the_drawn_point_is_that_of_the_operator():
    """One point: the middle of what is yellow in the picture, at the width and margin of the picture."""
    model = make(offset_groups=1)
    with_known_offsets(model, "depth", [[-3.25, 4.5]])
    found = explain(model, image())
    picture = np.array(points_picture(found, (30, 40), ["depth"], width=384)).astype(int)
    rows, columns = np.nonzero((picture == (255, 196, 0)).all(2))
    # A margin of a fifth of the image, 16 pixels to the left and above, 26 of heading.
    x, y = columns.mean() - 16 - round(384 * 0.2), rows.mean() - 16 - 26 - round(256 * 0.2)
    (expected,) = found.points("depth", (30, 40)).xy
    np.testing.assert_allclose(expected, ((7 + 4.5 + 0.5) * 4 - 0.5, (10 - 3.25 + 0.5) * 4 - 0.5))
    # The picture is four times as large.
    np.testing.assert_allclose([(x + 0.5) / 4 - 0.5, (y + 0.5) / 4 - 0.5], expected, atol=0.2)


def plain_softmax(block, x, fused):
    """Weights of `nn.MultiheadAttention` with the block's projections: (queries, T·h·w), mean over heads."""
    plain = nn.MultiheadAttention(block.channels, block.heads, batch_first=True).double()
    layers = [block.query, block.key, block.value]
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        biases = [torch.zeros(block.channels) if layer.bias is None else layer.bias for layer in layers]
        plain.in_proj_bias.copy_(torch.cat(biases))
    queries, keys = x.flatten(2).mT.double(), fused.transpose(1, 2).flatten(2).mT.double()
    if getattr(block, "attention", "") == "pixelwise":
        queries, keys = x.flatten(2).permute(2, 0, 1).double(), fused.flatten(3)[0].permute(2, 0, 1).double()
    return plain(queries, keys, keys, need_weights=True)[1].detach()


@pytest.fixture
def maps():
    return torch.randn(1, 16, 3, 5), torch.randn(1, 4, 16, 3, 5)


def test_pixelwise_shares_are_a_plain_softmax(maps):
    x, fused = maps
    block = TaskQueryBlock(16, heads=4)
    with torch.no_grad():
        found = shares(block, x, fused)
        at = attended(block, x, fused, (1, 3))
    wanted = plain_softmax(block, x, fused)[:, 0].T.reshape(4, 3, 5)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.ones(3, 5))
    torch.testing.assert_close(at.sum((1, 2)).double(), wanted[:, 1, 3], rtol=1e-4, atol=1e-6)
    assert at.count_nonzero() == 4


@pytest.mark.parametrize(
    "block", [TaskQueryBlock(16, heads=4, attention="global"), TaskInteractionBlock(16, heads=2, attention="global")]
)
def test_global_shares_are_a_plain_softmax(maps, block, monkeypatch):
    x, fused = maps
    wanted = plain_softmax(block, x, fused)[0].reshape(15, 4, 15)
    with torch.no_grad():
        found = shares(block, x, fused)
        monkeypatch.setattr("demt.inference.attention._SCORES", 700)  # a few queries at a time
        torch.testing.assert_close(shares(block, x, fused), found)
        at = attended(block, x, fused, (2, 1))
    torch.testing.assert_close(found.double(), wanted.sum(2).T.reshape(4, 3, 5), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(at.double(), wanted[11].reshape(4, 3, 5), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.ones(3, 5))
    torch.testing.assert_close(at.sum(), torch.tensor(1.0))


def test_shares_in_windows_are_a_plain_softmax_of_each(maps):
    x, fused = maps
    block = TaskQueryBlock(16, heads=4, attention="window", window=2, shift=1)
    with torch.no_grad():
        found = shares(block, x, fused)
        at = attended(block, x, fused, (2, 4))
    for rows in (slice(0, 1), slice(1, 3)):
        for columns in (slice(0, 1), slice(1, 3), slice(3, 5)):
            part = x[..., rows, columns], fused[..., rows, columns]
            size = part[0].shape[-2:]
            weights = plain_softmax(block, *part)[0].unflatten(1, (4, -1))
            wanted = weights.sum(2).T.reshape(4, *size)
            torch.testing.assert_close(found[:, rows, columns].double(), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(at[:, 1:, 3:].double(), weights[3].reshape(4, 2, 2), rtol=1e-4, atol=1e-6)
    assert at.sum() == pytest.approx(1)
    assert not at[:, 0].any()
    assert not at[:, :, :3].any()


@pytest.mark.parametrize("kind", ["window", "deformable"])
def test_what_is_attended_gives_the_result_of_the_block(maps, kind):
    """One head, and values that are equal in each task: what a task adds is its share of the value."""
    x, fused = maps
    fused = fused[..., :1, :1].expand(fused.shape).contiguous()
    block = TaskQueryBlock(16, heads=1, attention=kind, **({"window": 2} if kind == "window" else {}))
    with torch.no_grad():
        for layer in (block.query, block.key):
            nn.init.normal_(layer.weight, std=0.1)
        at = attended(block, x, fused, (1, 2)).sum((1, 2))
        values = block.value(fused[0, :, :, 0, 0])
        wanted = x[0, :, 1, 2] + block.norm(block.linear(block.proj((at[:, None] * values).sum(0))))
        torch.testing.assert_close(block(x, fused)[0, :, 1, 2], wanted, rtol=1e-4, atol=1e-4)


def test_points_of_deformable_attention_are_shared_out_among_cells(maps):
    x, fused = maps
    block = TaskQueryBlock(16, heads=2, attention="deformable", points=2)
    with torch.no_grad():
        block.query.bias.copy_(torch.tensor([[0.25, 0.5, 0.0], [-9.0, 0.0, 1.0]]).repeat(2, 1).flatten())
        at, found = attended(block, x, fused, (1, 2)), shares(block, x, fused)
    torch.testing.assert_close(found, torch.full_like(found, 0.25))
    # Of the two points of each of four tasks one lies outside, with e times the weight of the other.
    share = 1 / (4 + 4 * math.e)
    wanted = torch.zeros(3, 5)
    wanted[1:3, 2:4] = share * torch.tensor([[0.75 * 0.5, 0.75 * 0.5], [0.25 * 0.5, 0.25 * 0.5]])
    torch.testing.assert_close(at, wanted.expand(4, -1, -1))


def test_linear_shares_are_lengths_of_what_tasks_add(maps):
    """Token by token, in loops; what all tasks add is what the block adds."""
    x, fused = maps
    block = TaskQueryBlock(16, heads=2, attention="linear")
    with torch.no_grad():
        q = block.query(block.norm_query(x.flatten(2).mT))[0]
        tokens = fused[0].flatten(2).mT
        k, v = block.key(block.norm_key(tokens)), block.value(block.norm_value(tokens))
        for cell, (row, column) in {11: (2, 1), 3: (0, 3)}.items():
            added = torch.zeros(4, 15, 16)
            for head in (slice(0, 8), slice(8, 16)):
                for task in range(4):
                    for token in range(15):
                        weight = q[cell, head] @ k[task, token, head] / math.sqrt(8)
                        added[task, token, head] = weight * v[task, token, head]
            lengths = added.sum(1).norm(dim=1)
            torch.testing.assert_close(shares(block, x, fused)[:, row, column], lengths / lengths.sum())
            each = added.norm(dim=2)
            at = attended(block, x, fused, (row, column))
            torch.testing.assert_close(at, (each / each.sum()).reshape(4, 3, 5))
            out = block.norm(block.linear(block.proj(added.sum((0, 1)))))
            torch.testing.assert_close(
                x[0, :, row, column] + out, block(x, fused)[0, :, row, column], rtol=1e-4, atol=1e-4
            )


MODELS = {
    "demt": ("demt_nano", {}),
    "demtg": ("demtg_nano", {}),
    "degmix": ("degmix_nano", {}),
    "global": ("demtg_nano", {"query": "global", "interaction": "global"}),
    "window": ("demtg_nano", {"query": "window", "interaction": "window", "window": 3}),
    "deformable": ("demt_nano", {"query": "deformable", "interaction": "deformable"}),
    "fpn": ("demt_nano", {"neck": "fpn"}),
    "dpt": ("degmix_nano", {"neck": "dpt"}),
    "plain_vit": ("degmix", {"backbone": "test_vit.r160_in1k", "width": 8}),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_family_neck_and_a_plain_vit(name, tmp_path):
    family, options = MODELS[name]
    model = make(family, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    model.head.queries["depth"].eval()
    found = explain(model, image())
    assert [module.training for module in (model, model.backbone, model.head.queries["depth"])] == [True, True, False]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(bool((value == before[key]).all()) for key, value in model.state_dict().items())
    assert found.blocks == model.config.depth
    for task in TASKS:
        np.testing.assert_allclose(found.shares(task).sum(0), 1, atol=1e-5)
        if name != "deformable":  # whose points may lie outside
            assert found.attended(task, (3, 5)).sum() == pytest.approx(1, abs=1e-5)
        assert found.attended(task, (3, 5)).shape == (3, *found.grid)
        for block in range(found.blocks):
            assert np.isfinite(found.points(task, (3, 5), block).xy).all()
    np.testing.assert_allclose(found.table().sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found.interaction_table().sum(1), 1, atol=1e-5)
    assert found.interaction == model.config.interaction
    files = save_explanation(found, tmp_path / "out", (3, 5), ["depth"])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in files}
    assert ("attended_depth.png" in {file.name for file in files}) == (found.attention != "pixelwise")


def test_the_maps_are_those_of_the_forward_pass():
    """What the explanation holds gives the model's own output when it goes through the rest of the model."""
    model = make("degmix_nano")
    found, x = explain(model, image()), demt.preprocess(model, image())
    with torch.inference_mode():
        logits = model(x)
        for task in TASKS:
            asked = found._queries[task]
            z = model.head.gating(asked.block(asked.x, asked.fused))
            torch.testing.assert_close(model.head.heads[task](z, SIZE), logits[task], rtol=1e-4, atol=1e-5)


def test_a_model_without_mixers_has_attention_alone(tmp_path):
    model = make(depth=0)
    found = explain(model, image())
    assert found.blocks == 0
    with pytest.raises(ValueError, match="depth 0"):
        found.points("depth", (0, 0))
    assert {file.suffix for file in save_explanation(found, tmp_path / "out", (0, 0))} == {".png", ".json"}


def test_where_nothing_is_read():
    model = make()
    with_known_offsets(model, "depth", torch.full((model.config.width, 2), 1000.0))
    found = explain(model, image())
    assert np.isnan(found.flow("depth")).all()
    assert not found.points("depth", (9, 9)).inside.any()
    offsets_picture(found)
    points_picture(found, (9, 9))
    assert table_picture(found).size[0] > 0
    with_known_offsets(model, "depth", torch.full((model.config.width, 2), 2.0))
    flow = explain(model, image()).flow("depth")
    np.testing.assert_allclose(flow[:, 4, 5], (8, 8), rtol=1e-4)


def test_bad_input_is_one_line(tmp_path):
    found = explain(make(), image())
    for run, words in {
        (lambda: found.points("dept", (0, 0))): "Unknown task 'dept'",
        (lambda: found.points("depth", (96, 0))): "96 x 64",
        (lambda: found.points("depth", (0.5, 0))): "two whole numbers",
        (lambda: found.points("depth", (0, 0), 1)): "`block` in 0 to 0",
        (lambda: explain(make("multitask_baseline_nano"), image())): "the baseline has neither",
        (lambda: explain(nn.Identity(), image())): "to be a demt model",
        (lambda: explain(make(), image(), max_size=0)): "`max_size`",
    }.items():
        with pytest.raises(ValueError, match=words):
            run()


def invoke(*arguments):
    return CliRunner().invoke(app, ["explain", *(str(each) for each in arguments)])


def test_command(tmp_path):
    picture = tmp_path / "photo.png"
    Image.fromarray(image((72, 96))).save(picture)
    model = ["--model", "demt_nano.rooms", "--out", tmp_path / "out"]
    result = invoke(picture, *model, "--pixel", "40,30", "--task", "depth", "--task", "semseg")
    assert result.exit_code == 0, result.output
    names = {"points.png", "offsets.png", "tasks.png", "attention_depth.png", "attention_semseg.png", "explain.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    numbers = json.loads((tmp_path / "out/explain.json").read_text())
    assert (numbers["pixel"], numbers["cell"]) == ([40, 30], {"row": 7, "column": 10})
    assert set(numbers["operators"]) == {"depth", "semseg"}
    assert len(numbers["operators"]["depth"][0]["points"]) == 64
    assert sum(numbers["attention"]["at_pixel"]["depth"].values()) == pytest.approx(1, abs=1e-5)
    for options, words in {
        ("--pixel", "40,30"): "exists and is not empty",
        ("--pixel", "40"): "--pixel as X,Y",
        ("--pixel", "96,3", "--out", tmp_path / "b"): "an image of 96 x 72 (width x height)",
        ("--task", "dept", "--out", tmp_path / "b"): "Unknown task 'dept'",
        ("--model", "multitask_baseline_nano.rooms", "--out", tmp_path / "b"): "the baseline has neither",
    }.items():
        failed = invoke(picture, *model, *options)
        assert failed.exit_code == 1
        assert words in failed.output
        assert len(failed.output.strip().splitlines()) == 1, failed.output
        assert not (tmp_path / "b").exists()
    assert "No image at" in invoke(tmp_path / "none.png", *model, "--out", tmp_path / "b").output
