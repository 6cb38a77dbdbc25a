import inspect
import os

import pytest
import torch

# Nothing in the tests may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"


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
