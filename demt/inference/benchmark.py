"""Time and memory of a model on this machine: each measurement in a process of its own, so that none warms another."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demt.factory import create_model
from demt.inference.fuse import fuse
from demt.models import MultiTaskModel

#: Ways to run a model: what is made of it.
WAYS: dict[str, Callable[[MultiTaskModel], Callable[[Tensor], Any]]] = {
    "eager": lambda model: model,
    "fused": fuse,
    "compiled": lambda model: torch.compile(model),
    "training": lambda model: TrainingStep(model),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One measurement: which model, run how, on what.

    Args:
        model: Name for `demt.create_model`; weights do not matter and are random.
        way: ``"eager"``, ``"fused"`` (see `demt.fuse`), ``"compiled"`` (`torch.compile`) or ``"training"`` (forward
            and backward pass in training mode).
        size: Height and width of the images.
        batch_size: Images at once.
        device, dtype: Such as ``"cuda"`` and ``"bfloat16"``.
        threads: Threads of a CPU; torch's choice by default.
        seconds: How long to repeat the run, at the least three times.
    """

    model: str
    way: str = "eager"
    size: tuple[int, int] = (448, 576)
    batch_size: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    seconds: float = 5.0


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        seconds: Median time of a run, after a first one that does not count.
        first_seconds: That first run: it compiles, where something is compiled.
        memory: Most memory in bytes: on a GPU what torch allocated, on a CPU that of the whole process.
        idle_memory: What of it was there before the first run: the model and, on a CPU, all that is imported.
    """

    seconds: float
    first_seconds: float
    memory: int
    idle_memory: int


class TrainingStep:
    """Forward and backward pass; gradients are dropped."""

    def __init__(self, model: MultiTaskModel) -> None:
        self.model = model.train()

    def __call__(self, images: Tensor) -> None:
        out = self.model(images)
        sum(each.float().square().mean() for each in out.values()).backward()  # type: ignore[union-attr]
        self.model.zero_grad(set_to_none=True)


def benchmark(settings: Sequence[Setting]) -> Iterator[Cost | str]:
    """Measure one setting after the other: what it took, or in words why it does not run here.

    Example:
        >>> from demt.inference.benchmark import Setting, benchmark
        >>> (cost,) = benchmark([Setting(model="degmix_nano", size=(64, 64), seconds=0)])  # doctest: +SKIP
    """
    for setting in settings:
        yield in_own_process(measure, setting)


def in_own_process(function: Callable[..., Cost], *args: Any) -> Cost | str:
    """`function(*args)` in a new process; its error in words."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            return "the process was killed: too little memory?"
        except Exception as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def measure(setting: Setting) -> Cost:
    """Measure a setting in this process."""
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, setting.dtype)
    model: Any = create_model(setting.model).eval().to(setting.device, dtype)
    images = torch.randn(setting.batch_size, model.config.in_chans, *setting.size, device=setting.device, dtype=dtype)
    run = WAYS[setting.way](model)
    with torch.set_grad_enabled(setting.way == "training"):
        return time_run(lambda: run(images), setting.device, setting.seconds)


def time_run(run: Callable[[], Any], device: str, seconds: float) -> Cost:
    """Run once, then for `seconds` and at the least three times."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    idle = torch.cuda.memory_allocated(device) if on_gpu else memory_now()
    times: list[float] = []
    while len(times) < 4 or sum(times[1:]) < seconds:
        start = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else peak_memory()
    return Cost(statistics.median(times[1:]), times[0], memory, idle)


def peak_memory() -> int:
    """Most memory this process has held, in bytes; 0 where the system does not say."""
    return _status("VmHWM")


def memory_now() -> int:
    """Memory this process holds, in bytes; 0 where the system does not say."""
    return _status("VmRSS")


def _status(field: str) -> int:
    # Linux only. Not getrusage: there a new process starts with its parent's peak.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
