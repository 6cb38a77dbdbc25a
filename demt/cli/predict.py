"""`demt predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demt.cli.common import (
    AsJson,
    Device,
    MaxSize,
    Model,
    RandomWeights,
    console,
    device_of,
    errors,
    exit_for_failed,
    friendly_errors,
    parse_size,
    print_json,
)
from demt.cli.load import load_model
from demt.cli.predict_videos import is_video, predict_videos, targets

if TYPE_CHECKING:
    from rich.progress import Progress

    from demt.inference.pictures import Saved


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, folders, quoted patterns such as 'photos/**/*.jpg', @FILE for a list; WebDataset shards "
            "(.tar); videos and cameras (/dev/video0).",
            show_default=False,
        ),
    ] = None,
    model: Model = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("predictions"),
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="FILE", help="A file of names, one per line; - reads standard input."),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks to save, such as semseg,depth; by default all.")] = None,
    save: Annotated[
        str,
        typer.Option(
            help="What to save: panel, pictures (one per task), arrays (.npz), png16 (normals, depth in millimetres)."
        ),
    ] = "panel,pictures,arrays",
    random_weights: RandomWeights = False,
    max_size: MaxSize = None,
    tile: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Run at the image's own size, in blended tiles of this size, e.g. 512x1024."),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Pixels that neighbouring tiles share; by default a quarter.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size, or tiles, that run at once.")] = 4,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or fp16 on a GPU.")] = "fp32",
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Batches at work at once; by default one per core, at most 4, with a GPU 8."),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="For videos: beside, the frame and all tasks in one; or tasks, a video each.")
    ] = "beside",
    smoothing: Annotated[
        float, typer.Option(min=0, help="For videos: seconds over which predictions are averaged.")
    ] = 0.0,
    frames: Annotated[int | None, typer.Option(min=1, help="For videos and cameras: how many frames to take.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict every task of a model on pictures: a picture per task, a panel, and the values in an .npz file.

    Run the same command again to resume. On several GPUs: torchrun --nproc-per-node 4 -m demt predict …
    """
    with friendly_errors():
        from demt.inference.folder import predict_folder
        from demt.inference.pictures import SHARD, find_pictures, share
        from demt.inference.processes import cores, this_process, threads_of_torch, together

        if not model:
            raise ValueError("Choose a model: --model NAME; demt list shows them")
        if not images and not lists:
            raise ValueError("Say what to predict on: image files, folders, patterns, or --list FILE")
        videos = list(filter(is_video, images or []))
        images = [argument for argument in images or [] if argument not in videos]
        if videos and (tile is not None or tasks is not None):
            raise ValueError("--tile and --tasks are for pictures; a video shows all tasks, at --max-size")
        if frames is None and any(video.startswith("/dev/video") for video in videos):
            raise ValueError("A camera has no end: say how many frames to take, --frames N")
        tiles = None if tile is None else parse_size("--tile", tile)
        process = this_process()
        where = device_of(device)
        pictures = find_pictures(images, lists=lists or [], out=out)
        network = load_model(model, random_weights).to(where)
        note = "Random weights: these pictures only show the format, and mean nothing." if random_weights else None
        if note and process[0] == 0:
            errors.print(f"[yellow]{note}[/yellow]")
        films = targets(videos, out, list(network.tasks) if layout == "tasks" else [])
        mine_alone = {
            videos[place]: films[videos[place]] for window in share(len(videos), process, 1) for place in window
        }
        workers = threads or min(cores(), 4 if where.type == "cpu" else 8)
        with together() as gather:
            found = predict_folder(
                network,
                pictures,
                out,
                tasks=None if tasks is None else _names(tasks),
                save=_names(save),
                max_size=max_size,
                tile=tiles,
                overlap=overlap,
                batch_size=batch_size,
                precision=precision,
                note=note,
                threads=workers,
                process=process,
            )
            report: dict[str, Any] = {"new": 0, "kept": 0, "failed": {}, "files": {}}
            try:
                with _bar(shown=process[0] == 0) as bar:
                    if pictures:
                        # How many pictures are in a shard is known at its end.
                        shards = any(picture.path.suffix.lower() == SHARD for picture in pictures)
                        count = None if shards else sum(map(len, share(len(pictures), process)))
                        task = bar.add_task("Pictures", total=count)
                        # On a CPU each thread runs the model, with its share of the cores.
                        with threads_of_torch(workers if where.type == "cpu" else 1):
                            _watch(found, report, as_json, lambda: bar.advance(task))
                    if mine_alone:
                        film = bar.add_task("Frames", total=None)
                        predict_videos(
                            network,
                            mine_alone,
                            report,
                            precision=precision,
                            advance=lambda: bar.advance(film),
                            layout=layout,
                            smoothing=smoothing,
                            max_size=max_size,
                            batch_size=batch_size,
                            frames=frames,
                        )
                        for file in [] if as_json else (file for files in report["files"].values() for file in files):
                            console.print(file, soft_wrap=True, highlight=False, markup=False)
            except KeyboardInterrupt:
                errors.print("Interrupted; run the same command again to resume.")
                raise typer.Exit(130) from None
            reports = gather(report)
    if reports:
        _report(reports, [*(str(picture.path) for picture in pictures), *videos], out, as_json)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _watch(found: Iterator[Saved], report: dict[str, Any], as_json: bool, advance: Callable[[], Any]) -> None:
    """Do the work on pictures, and put into the report what became of them."""
    last = None
    for saved in found:
        path = str(saved.picture.path)
        if saved.error is not None:
            report["failed"][path] = " ".join(str(saved.error).split())
        elif as_json:
            report["files"][path] = [str(file) for file in saved.files]
        elif saved.is_new and saved.files[0] != last:
            last = saved.files[0]
            console.print(str(last), soft_wrap=True, highlight=False, markup=False)
        report["new"] += saved.error is None and saved.is_new
        report["kept"] += not saved.is_new
        advance()


def _bar(shown: bool) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} a second" if speed else "", style="progress.data.speed")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeLeft())
    # Lines on standard output would break the bar on a terminal; elsewhere they must stay where they are.
    return Progress(
        *columns, console=errors, disable=not (shown and errors.is_terminal), redirect_stdout=console.is_terminal
    )


def _report(reports: Sequence[dict[str, Any]], given: Sequence[str], out: Path, as_json: bool) -> None:
    failed = {path: error for report in reports for path, error in report["failed"].items()}
    files = {path: names for report in reports for path, names in report["files"].items()}
    # In the order given; the pictures of shards after that.
    paths = dict.fromkeys([*given, *files, *failed])
    new, kept = (sum(report[key] for report in reports) for key in ("new", "kept"))
    total = new + kept + len(failed)
    if as_json:
        document = {
            "out": str(out),
            "new": new,
            "kept": kept,
            "pictures": [{"image": path, "files": files[path]} for path in paths if path in files],
            "failed": [{"image": path, "error": failed[path]} for path in paths if path in failed],
        }
        print_json(document)
    elif kept:
        errors.print(f"{kept} of {total} images had their predictions already", highlight=False)
    exit_for_failed([(Path(path), ValueError(failed[path])) for path in paths if path in failed], total, "predictions")
