import inspect
import os

# Workers of pytest-xdist share the processor; torch reads this when it is imported.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // int(workers), 1)))
# pytest-xdist sets it, and rich then takes every terminal for as wide as that.
os.environ.pop("COLUMNS", None)
# Nothing in the tests may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _too_old_to_export():
    from torch.fx.experimental import _config

    known = inspect.signature(torch.export.export).parameters
    if hasattr(_config, "backed_size_oblivious") and "prefer_deferred_runtime_asserts_over_guards" in known:
        return ""
    return f"torch {torch.__version__} cannot leave sizes open"


_TOO_OLD = _too_old_to_export()
needs_export = pytest.mark.skipif(bool(_TOO_OLD), reason=_TOO_OLD)


def deviation(actual, expected):
    """Largest error relative to the standard deviation of what is expected."""
    return ((actual.float() - expected.float()).abs().max() / expected.float().std().clamp_min(1e-12)).item()
