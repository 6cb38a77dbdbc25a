"""A limit on memory, for files that ask for too much of it."""

import contextlib
from pathlib import Path

import pytest


@contextlib.contextmanager
def little_memory():
    """Half a gigabyte more than is in use."""
    resource = pytest.importorskip("resource")
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("needs /proc")
    used = int(statistics.read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
