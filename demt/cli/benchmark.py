"""`demt benchmark`: how fast a model is on this machine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from demt.cli.benchmark_formats import print_formats
from demt.cli.common import AsJson, console, device_of, friendly_errors, parse_size


def benchmark(
    name: Annotated[str, typer.Argument(help="A model; demt list shows them.")],
    way: Annotated[
        list[str] | None,
        typer.Option(help="eager, fused, compiled or training; may be repeated. The first two by default."),
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="HxW", help="Image size, e.g. 512x1024; may be repeated.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda …; auto is a GPU if there is one.")] = "auto",
    dtype: Annotated[list[str] | None, typer.Option(help="float32, bfloat16 or float16; may be repeated.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to repeat each run.")] = 5.0,
    all_formats: Annotated[
        bool,
        typer.Option("--all-formats", help="Torch, bf16, compiled, ONNX, int8, OpenVINO: time, size and agreement."),
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="With --all-formats: folder of at least 8 pictures, for int8 and agreement.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="With --all-formats: how often each form runs.")] = 7,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="With --all-formats: of a named model that has no weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure time and memory of a model on this machine, with random weights: one line for each way to run it."""
    if all_formats:
        with friendly_errors():
            if way or dtype or batch_size != 1 or device not in ("auto", "cpu"):
                raise ValueError("With --all-formats, drop --way, --dtype, --batch-size and --device: it runs them all")
            if size and len(size) > 1:
                raise ValueError(f"Expected one --size with --all-formats, got {len(size)}")
            sides = parse_size("--size", size[0]) if size else None
        print_formats(name, sides, threads or 1, calibrate, rounds, random_weights, as_json)
        return
    with friendly_errors():
        if calibrate is not None or random_weights or as_json:
            raise ValueError("Use --calibrate, --random-weights and --json with --all-formats")
        import torch
        from rich.markup import escape
        from rich.table import Table

        from demt.inference.benchmark import WAYS, Cost, Setting, benchmark
        from demt.registry import get_config

        size_of_training = get_config(name)[1].input_size[1:]
        sizes = [parse_size("--size", each) for each in size or ["{}x{}".format(*size_of_training)]]
        ways, dtypes = way or ["eager", "fused"], dtype or ["float32"]
        for option, values, known in (
            ("--way", ways, tuple(WAYS)),
            ("--dtype", dtypes, ("float32", "bfloat16", "float16")),
        ):
            if unknown := [each for each in values if each not in known]:
                raise ValueError(f"Expected {option} to be one of {', '.join(known)}, got {unknown[0]!r}")
        device = str(device_of(device))
        where = (
            torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else device
        )
        heading = f"{name} on {where}, torch {torch.__version__}, batch of {batch_size}"
        console.print(heading, highlight=False, markup=False)
        table = Table("size", "type", "way")
        for column in ("ms", "images/s", "first run, s", "peak MB", "above idle"):
            table.add_column(column, justify="right")
        settings = [
            Setting(
                model=name, way=w, size=s, batch_size=batch_size, device=device, dtype=d, threads=threads,
                seconds=seconds,
            )
            for s, d, w in itertools.product(sizes, dtypes, ways)
        ]  # fmt: skip
        with console.status("") as status:
            for number, (setting, cost) in enumerate(zip(settings, benchmark(settings)), 1):
                status.update(f"{number} of {len(settings)} measured")
                label = ["x".join(map(str, setting.size)), setting.dtype, setting.way]
                table.add_row(*label, *(_cells(cost, batch_size) if isinstance(cost, Cost) else [escape(cost)]))
        console.print(table)


def _cells(cost: object, batch_size: int) -> list[str]:
    from demt.inference.benchmark import Cost

    assert isinstance(cost, Cost)
    memory = [f"{value / 1e6:.0f}" if value > 0 else "?" for value in (cost.memory, cost.memory - cost.idle_memory)]
    times = [f"{1e3 * cost.seconds:.1f}", f"{batch_size / cost.seconds:.2f}", f"{cost.first_seconds:.2f}"]
    return [*times, *memory]
