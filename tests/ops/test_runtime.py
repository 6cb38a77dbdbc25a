"""What happens where torch no longer has a private name: the slower way that is right in any case."""

import contextlib

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental import _config

from demt.ops import runtime


def test_what_is_at_work_is_seen():
    assert runtime.is_eager_on_cpu()
    seen = []
    torch.func.vmap(lambda x: seen.append(runtime.is_eager_on_cpu()) or x)(torch.ones(2))
    with forward_ad.dual_level():
        seen.append(runtime.is_eager_on_cpu())
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch._C._functorch, "peek_interpreter_stack"),
        (torch._C, "_len_torch_dispatch_stack"),
        (forward_ad, "_current_level"),
    ],
)
def test_without_a_name_a_transform_is_assumed(owner, name, monkeypatch):
    monkeypatch.delattr(owner, name)
    assert not runtime.is_eager_on_cpu()


def test_without_its_name_sizes_are_left_as_they_are(monkeypatch):
    assert not isinstance(runtime.open_sizes(), contextlib.nullcontext)
    monkeypatch.setattr("torch.fx.experimental._config", object(), raising=False)
    monkeypatch.setitem(__import__("sys").modules, "torch.fx.experimental._config", _config)
    assert isinstance(runtime.open_sizes(), contextlib.nullcontext)
