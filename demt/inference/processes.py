"""Processes that share the pictures of a command: who they are, and what they tell each other in the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
#: How long the first process waits for the others, whose pictures may take longer.
_PATIENCE = timedelta(days=14)


def this_process() -> tuple[int, int]:
    """Rank and number of the processes that share the work, from the variables ``RANK`` and ``WORLD_SIZE``.

    `torchrun` and `accelerate launch` set them; other schedulers have other names for the same. (0, 1) without them.

    Raises:
        ValueError: if they are no such numbers.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (texts[0].isdecimal() and texts[1].isdecimal() and int(texts[0]) < int(texts[1])):
        raise ValueError(
            f"Expected the variables RANK and WORLD_SIZE to be whole numbers, RANK the smaller, got {texts[0]!r} and "
            f"{texts[1]!r}"
        )
    return int(texts[0]), int(texts[1])


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads_of_torch(sharing: int) -> Iterator[None]:
    """Within it an operation of torch uses a share of the threads that it has outside, for `sharing` at once.

    This is a setting of the process: for one that does nothing else.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(before // sharing, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def together() -> Iterator[Callable[[T], list[T]]]:
    """A function that gives the first process what every process has, and the others an empty list.

    It waits until all have called it: a launcher stops all processes when one ends with an error, so none may leave
    with one before all have done their work. Processes that no launcher has told of each other are each the first.
    """
    import torch.distributed as dist

    rank, processes = this_process()
    if processes == 1 or "MASTER_ADDR" not in os.environ:
        yield lambda mine: [mine]
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)

    def gather(mine: T) -> list[T]:
        found: list[T] | None = [mine] * processes if rank == 0 else None
        dist.gather_object(mine, found)
        dist.barrier()
        return found or []

    try:
        yield gather
    finally:
        dist.destroy_process_group()
