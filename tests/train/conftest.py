"""Training tests run with one thread, and each forgets Accelerate's state of the process."""

import pytest
import torch

from tests.train.worker import reset


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    reset()
