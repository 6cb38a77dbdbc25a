import logging
import subprocess
import sys

import pytest
import torch

from demt.ops import Path, best_path, dispatch


@pytest.fixture(autouse=True)
def fresh_decisions(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv(dispatch.SWITCH, "1")
    dispatch._device_obstacle.cache_clear()
    dispatch.log_fallback.cache_clear()
    yield
    dispatch._device_obstacle.cache_clear()


def test_cpu_takes_torch():
    path = best_path("cpu")
    assert isinstance(path, Path)
    assert path.name == "torch"
    assert "'cpu'" in path.reason


def test_cuda_takes_triton_where_it_can(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(dispatch.importlib.metadata, "version", lambda name: "3.10.0")
    assert best_path(torch.device("cuda:1"), torch.bfloat16).name == "triton"
    path = best_path("cuda", torch.float64)
    assert path.name == "torch"
    assert "torch.float64" in path.reason


def test_cuda_takes_torch_unless_asked(monkeypatch, caplog):
    monkeypatch.delenv(dispatch.SWITCH)
    path = best_path("cuda")
    assert path.name == "torch"
    assert "DEMT_TRITON=1" in path.reason
    dispatch.log_fallback(torch.device("cuda"), path.reason)
    assert not caplog.records


def test_cuda_with_old_triton_takes_torch(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(dispatch.importlib.metadata, "version", lambda name: "3.2.0")
    assert best_path("cuda").name == "torch"
    assert "triton 3.3" in best_path("cuda").reason


def test_cuda_without_triton_takes_torch(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    path = best_path("cuda")
    assert path.name == "torch"
    assert "triton is not installed" in path.reason


def test_shapes_without_a_kernel():
    def obstacle(channels: int, groups: int, size: int = 4) -> str | None:
        x = torch.empty(1, channels, size, size, device="meta")
        weights = torch.empty(2 * groups, 9, 3, 3, device="meta"), torch.empty(5, channels, device="meta")
        return dispatch._shape_obstacle(x, *weights)

    assert obstacle(8, 8) is None
    assert "8 with 4" in obstacle(8, 4)
    assert "3 with 3" in obstacle(3, 3)
    assert "2**31" in obstacle(2, 2, size=1 << 15)
    assert "nothing" in obstacle(2, 2, size=0)


def test_fallback_on_a_gpu_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, logger="demt"):
        for _ in range(3):
            dispatch.log_fallback(torch.device("cuda"), "triton is not installed")
            dispatch.log_fallback(torch.device("cpu"), "there is no kernel for device 'cpu'")
    (record,) = caplog.records
    assert "triton is not installed" in record.getMessage()


def test_import_takes_no_optional_dependency():
    code = "import sys, demt.ops; print([name for name in sys.modules if name.startswith('demt.ops.triton')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
