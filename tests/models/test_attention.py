"""Models with window and deformable attention: saved, given other tasks, fused, counted, exported."""

import json

import pytest
import torch

import demt
from demt.export.write import export
from demt.inference.cost import count_multiply_adds
from demt.ops import interact_and_query
from tests.conftest import deviation, needs_export
from tests.export.test_export import assert_equal_at_other_sizes, needs_onnx
from tests.models.test_necks import PYRAMID

MODES = [("window", "window"), ("deformable", "deformable"), ("window", "deformable"), ("deformable", "pixelwise")]
every_mode = pytest.mark.parametrize(("interaction", "query"), MODES)


def tiny(interaction, query, family="demt", **options):
    model = demt.create_model(
        family,
        backbone=PYRAMID,
        tasks={"semseg": 5, "depth": 1},
        width=8,
        interaction=interaction,
        query=query,
        **options,
    )
    # Points that depend on the maps and lie between pixels.
    for name, parameter in model.head.named_parameters():
        if name.endswith(("query.weight", "key.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("family", ["demt", "demtg", "degmix"])
@every_mode
def test_saved_fused_and_given_other_tasks(interaction, query, family, tmp_path):
    options = {"pre_norm": True} if family == "degmix" else {}
    model = tiny(interaction, query, family, window=3, points=2, **options)
    images = torch.randn(2, 3, 60, 75)
    with torch.no_grad():
        expected = model(images)
        model.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())["model"]
        assert [saved[name] for name in ("interaction", "query", "window", "points")] == [interaction, query, 3, 2]
        again = demt.create_model(str(tmp_path)).eval()
        fused = demt.fuse(model)(images)
        alone = model(images[1:])
        for name, logits in again(images).items():
            assert torch.equal(logits, expected[name])
            assert deviation(fused[name], expected[name]) < 1e-3
            assert deviation(alone[name], expected[name][1:]) < 1e-3
    other = demt.create_model(str(tmp_path), tasks={"depth": 1, "normals": 3, "edge": 1})
    assert list(other.train()(images)) == ["depth", "normals", "edge"]
    assert torch.equal(other.head.interaction.query.weight, model.head.interaction.query.weight)
    assert torch.equal(other.head.queries["depth"].query.weight, model.head.queries["depth"].query.weight)


def test_windows_of_the_query_reach_over_edges_of_the_interactions():
    head = tiny("window", "window", window=5).head
    shifts = [block.attend.keywords["shift"] for block in (head.interaction, *head.queries.values())]
    assert shifts == [0, 2, 2]
    assert tiny("pointwise", "window", window=5).head.queries["depth"].attend.keywords["shift"] == 0


def test_a_window_as_large_as_the_map_is_the_papers_attention():
    """Windows of the query are not shifted where the interaction has none."""
    model, papers = tiny("global", "window", window=256), tiny("global", "global")
    papers.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 60, 75)
    with torch.no_grad():
        expected, found = papers(images), model(images)
    assert all(deviation(found[name], expected[name]) < 1e-4 for name in expected)


def test_gradient_checkpointing_gives_the_same_gradients():
    for mode in ("window", "deformable"):
        model = tiny(mode, mode).train()
        images, gradients = torch.randn(2, 3, 60, 75), []
        for checkpointed in (False, True):
            model.set_grad_checkpointing(checkpointed)
            model.zero_grad()
            sum(logits.square().mean() for logits in model(images).values()).backward()
            gradients.append(model.head.interaction.value.weight.grad.clone())
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("family", ["demt", "demtg"])
def test_one_pass_in_training_is_what_the_blocks_compute(family, monkeypatch):
    """Where somebody looks at a block, or computes it again in the backward pass, the blocks are called."""
    model = tiny("pointwise", "pixelwise", family).double().train()
    images, calls = torch.randn(2, 3, 60, 75, dtype=torch.float64), []
    name = "demt.ops.interact.interact_and_query"
    monkeypatch.setattr(name, lambda *given: calls.append(1) or interact_and_query(*given))

    def results():
        model.zero_grad()
        logits = model(images)
        sum(each.square().mean() for each in logits.values()).backward()
        return [*logits.values(), *(p.grad for p in model.parameters() if p.grad is not None)]

    expected = results()
    assert calls == [1]
    with_blocks, seen = [], []
    for looked_at in (model.head.interaction, model.head.queries["depth"], model.head.queries["depth"].key):
        handle = looked_at.register_forward_hook(lambda *_: seen.append(1))
        with_blocks.append(results())
        handle.remove()
    assert seen == [1] * 3
    model.set_grad_checkpointing(True)
    for found in (*with_blocks, results()):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    model.eval()(images)
    assert calls == [1]


def test_multiply_adds_grow_with_pixels_alone():
    for mode, factor in (("window", 4), ("deformable", 4), ("global", 6)):
        config = tiny(mode, mode, window=4).config
        small, large = (count_multiply_adds(config, size) for size in ((256, 256), (512, 512)))
        assert (large / small < 1.02 * factor) == (mode != "global")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interaction": "window", "window": 0}, "`window` to be an integer from 1 to 256, got 0"),
        ({"query": "deformable", "points": 33}, "`points` to be an integer from 1 to 32, got 33"),
        ({"query": "deformable", "width": 30, "heads": 4}, "`heads` to divide `channels`.*pass heads=3 or another"),
        ({"interaction": "windows"}, "`interaction` to be one of .*'window', 'deformable'"),
        ({"family": "multitask_baseline", "window": 4}, "has no decoder: `window` has no effect, got 4"),
    ],
)
def test_wrong_arguments(options, message):
    arguments = {"family": "demt", "interaction": "pointwise", "query": "pixelwise"} | options
    family = arguments.pop("family")
    with pytest.raises(ValueError, match=message):
        demt.create_model(family, backbone=PYRAMID, tasks={"depth": 1}, **{"width": 8, **arguments})


@needs_export
@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("interaction", "query"), MODES[:3])
def test_export(interaction, query, tmp_path):
    model = tiny(interaction, query, window=3)
    for name in ("model.onnx", "model.pt2"):
        assert export(model, tmp_path / name).error < 1e-3
    assert_equal_at_other_sizes(tmp_path / "model.onnx", model)
