import doctest
import importlib
import pkgutil

import pytest
import torch

import demt

# The command line is no library, and modules that need an optional dependency are skipped when it is missing.
MODULES = [m.name for m in pkgutil.walk_packages(demt.__path__, "demt.") if m.name not in ("demt.cli", "demt.__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    try:
        module = importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        # Triton of torch 2.6 cannot tune, so not import, without a GPU.
        if isinstance(error, RuntimeError) and "active drivers" not in str(error):
            raise
        pytest.skip(f"{name} cannot be imported: {error}")
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
