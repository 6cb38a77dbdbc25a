import pytest
import torch
from torch import nn

import demt
from demt.ops import by_rows, pointwise


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.heights = []

    def compute(self, x, y):
        self.heights.append(x.shape[-2])
        return [self.inner(x) + y, (x * y).sum(1, keepdim=True)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(pointwise, "PIXELS", {"cpu": 32})


@pytest.mark.parametrize("size", [(7, 9), (1, 64), (16, 2), (3, 200)])
def test_blocks_give_what_the_whole_gives(small_blocks, size):
    x, y = torch.randn(2, 3, *size), torch.randn(2, 3, *size)
    owner = Owner().eval()
    with torch.no_grad():
        got = by_rows(owner.compute, [x, y], owner=owner)
    assert sum(owner.heights) == size[0]
    assert max(owner.heights) == min(max(32 // (2 * size[1]), 1), size[0])
    for a, b in zip(got, [x + y, (x * y).sum(1, keepdim=True)]):
        assert torch.equal(a, b)


def test_results_may_take_the_place_of_maps(small_blocks):
    x, y = torch.randn(1, 3, 8, 9), torch.randn(1, 3, 8, 9)
    expected, memory = x + y, y.data_ptr()
    owner = Owner().eval()
    with torch.no_grad():
        total, product = by_rows(owner.compute, [x, y], owner=owner, reuse=[y, y])
    assert total.data_ptr() == memory
    assert torch.equal(total, expected)
    assert product.shape == (1, 1, 8, 9), "a result of another shape gets memory of its own"


def test_whole_where_somebody_looks(small_blocks):
    x = torch.randn(1, 3, 8, 9)
    for prepare in (Owner.train, lambda o: o.inner.register_forward_hook(lambda *_: None)):
        owner = Owner().eval()
        prepare(owner)
        with torch.no_grad():
            by_rows(owner.compute, [x, x], owner=owner)
        assert owner.heights == [8]
    owner = Owner().eval()
    by_rows(owner.compute, [x, x], owner=owner)
    assert owner.heights == [8], "a graph is recorded"


@pytest.mark.parametrize("depth", [0, 2])
def test_a_model_gives_the_same_in_blocks(small_blocks, depth):
    """Without mixers the tasks share one map, which must not be overwritten."""
    model = demt.create_model("demtg_nano", tasks={"semseg": 4, "depth": 1, "edge": 1}, depth=depth).eval()
    images = torch.randn(2, 3, 70, 90)
    whole = model(images)
    with torch.no_grad():
        blocks = model(images)
    for name, value in whole.items():
        assert (blocks[name] - value).abs().max() < 1e-4 * value.std()


def test_maps_that_hooks_of_all_modules_keep_stay_what_they_were(small_blocks):
    model = demt.create_model("demtg_nano", tasks={"depth": 1, "edge": 1}).eval()
    kept, ours = [], set(model.head.modules())
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            kept.append((output, output.clone())) if module in ours and isinstance(output, torch.Tensor) else None
        )
    )
    try:
        with torch.no_grad():
            model(torch.randn(1, 3, 96, 128))
    finally:
        handle.remove()
    assert len(kept) > 30
    assert all(torch.equal(output, copy) for output, copy in kept)


def test_hooks_see_whole_maps(small_blocks):
    model = demt.create_model("demt_nano", tasks={"depth": 1}).eval()
    seen = []
    model.head.queries["depth"].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        model(torch.randn(1, 3, 96, 128))
    assert seen == [(1, 64, 24, 32)]
