"""Run a function in two processes that talk through gloo."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def _worker(rank: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
        # torch 2.6 can deadlock where a group is destroyed while its thread lets go of the last operation's tensors.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def run_in_two(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``[function(0, *arguments), function(1, *arguments)]``, each in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_worker, args=(folder, function, arguments), nprocs=2)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
