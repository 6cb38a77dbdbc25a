"""Predictions on folders of pictures as files: any number of pictures, in memory that does not grow with it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from demt.data.files import picture_size
from demt.data.images import read_image
from demt.files import LOCK, lock_folder, write_bytes
from demt.inference.forward import check_precision
from demt.inference.pictures import SHARD, Picture, Saved, find_pictures, share
from demt.inference.predict import check_options
from demt.inference.prediction import trained_on_note
from demt.inference.results import Results
from demt.inference.save import DEFAULT_KINDS
from demt.inference.shard_run import predict_shard
from demt.inference.shards import need_webdataset
from demt.inference.stream import Read, Settings, as_read, of_one_size, predict_stream
from demt.models import MultiTaskModel
from demt.tasks import Task

#: The folder of files on their way, in the folder of results. What a killed run leaves there is deleted by the next.
_UNFINISHED = ".unfinished"


def predict_folder(
    model: MultiTaskModel,
    images: str | PathLike[str] | Iterable[str | PathLike[str]] | Sequence[Picture],
    out: str | PathLike[str],
    *,
    tasks: Iterable[str] | None = None,
    save: Iterable[str] = DEFAULT_KINDS,
    max_size: int | None = None,
    tile: int | tuple[int, int] | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    precision: str = "fp32",
    note: str | None = None,
    threads: int = 2,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Saved]:
    """Predict on pictures and write the predictions as files.

    Pictures of one size run together, `batch_size` at a time, among windows of `demt.inference.pictures.WINDOW`
    pictures. A call that was stopped is repeated to go on, and gives the bytes that an undisturbed one gives: files say
    which call wrote them, and are kept where it was one with the same model, options and picture. Files of other calls
    are replaced.

    A shard of WebDataset becomes one of the same name, with the files of each picture under its key, without their
    leading ``_``; it is there when all its pictures are in it. That needs ``pip install 'demt[webdataset]'``.

    Args:
        model: The model, left as it is.
        images: Files, folders, patterns: see `demt.inference.pictures.find_pictures`, or what that gives.
        out: Folder of the results. They keep the folders below a given folder.
        tasks: Names of the tasks to save; by default all.
        save: What to save: of `demt.inference.save.KINDS`, see `demt.inference.save.endings`.
        max_size, tile, overlap, batch_size: See `demt.predict`.
        precision: ``"fp32"``, the model's own type; ``"bf16"`` or, on a GPU, ``"fp16"`` (`torch.autocast`).
        note: A line on panels; by default what the model was trained on, where its configuration says so.
        threads: Batches at work at once, a thread each. On a CPU, as many of them run the model at once as find cores
            at `torch.get_num_threads` each: ``torch.set_num_threads(1)`` is fastest where predictions take as long to
            write as to compute.
        process: Rank and number of processes that share the pictures: each takes whole windows, so that the files are
            those of one process.

    Returns:
        An iterator that does the work: what became of each picture of this process, those that need nothing first.

    Raises:
        ValueError: for arguments that do not fit; if another run of this process writes to the folder.
        FileExistsError: if another file has the name of a result; nothing is written then.
        OSError: if a result cannot be written.
    """
    tiles = check_options(model, max_size=max_size, tile=tile, overlap=overlap, batch_size=batch_size)
    chosen = choose_tasks(model, tasks)
    kinds = tuple(dict.fromkeys([save] if isinstance(save, str) else save))
    note = trained_on_note(model) if note is None else note
    for name, value, least in (("threads", threads, 1), ("process", process[1], 1), ("process", process[0], 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"Expected `{name}` to hold whole numbers >= {least}, got {value!r}")
    check_precision(next(model.parameters()).device, precision)
    settings = Settings(
        tasks=tuple(chosen),
        max_size=max_size or model.pretrained_cfg.max_size,
        tiles=tiles,
        batch_size=batch_size,
        precision=precision,
        threads=threads,
        with_panel="panel" in kinds,
    )
    given = list(images) if not isinstance(images, (str, PathLike)) else images
    if isinstance(given, list) and all(isinstance(each, Picture) for each in given):
        pictures: list[Picture] = given  # type: ignore[assignment]
    else:
        pictures = find_pictures(given, out=out)  # type: ignore[arg-type]
    results = Results(model, chosen, kinds, settings, Path(out), note)
    return _start(model, results, settings, pictures, process)


def choose_tasks(model: MultiTaskModel, tasks: Iterable[str] | None) -> dict[str, Task]:
    """Some of a model's tasks, in its order. Raises `ValueError` for others, or none."""
    if tasks is None:
        return dict(model.tasks)
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if unknown := [name for name in names if name not in model.tasks]:
        raise ValueError(f"`tasks` names {unknown}, but the model has {list(model.tasks)}")
    if not names:
        raise ValueError(f"`tasks` names none; the model has {list(model.tasks)}")
    return {name: task for name, task in model.tasks.items() if name in names}


def _start(
    model: MultiTaskModel, results: Results, settings: Settings, pictures: Sequence[Picture], process: tuple[int, int]
) -> Iterator[Saved]:
    """Look for whatever would be replaced before anything is written; the work itself is the iterator's."""
    if results.out.exists() and not results.out.is_dir():
        raise FileExistsError(f"Expected `out` to be a folder, {str(results.out)!r} is a file; choose another")
    shards = [picture for picture in pictures if picture.path.suffix.lower() == SHARD]
    single = [picture for picture in pictures if picture.path.suffix.lower() != SHARD]
    if shards:
        need_webdataset()
    results.check_names({picture.name for picture in single})
    windows = [[single[place] for place in window] for window in share(len(single), process)]
    mine = [shards[place] for window in share(len(shards), process, 1) for place in window]
    done = {picture for picture in itertools.chain(*windows, mine) if results.is_done(picture)}

    def work() -> Iterator[Saved]:
        for picture in itertools.chain(*windows, mine):
            if picture in done:
                yield Saved(picture, results.files(picture), is_new=False)
        if len(done) == len(mine) + sum(map(len, windows)):
            return
        with staging_folder(results.out, process) as staging:
            yield from _predict_pictures(model, results, settings, windows, done, staging)
            for shard in mine:
                if shard not in done:
                    yield from predict_shard(model, shard, results, settings, staging)

    return work()


def _predict_pictures(
    model: MultiTaskModel,
    results: Results,
    settings: Settings,
    windows: Iterable[Sequence[Picture]],
    done: set[Picture],
    staging: Path,
) -> Iterator[Saved]:
    batches = (
        batch
        for window in windows
        if not done.issuperset(window)
        for batch in of_one_size(window, lambda picture: picture_size(picture.path), settings)
        if not done.issuperset(batch)
    )
    # Of the file that was read, which may be gone when its predictions are written.
    digests: dict[Picture, str] = {}

    def read(picture: Picture) -> Read:
        image = read_image(picture.path)
        digests[picture] = results.digest(picture)
        return as_read(model, image, settings)

    def finish(picture: Picture, read: Read, prediction: Mapping[str, NDArray[Any]]) -> None:
        contents = results.encode(digests.pop(picture), read, prediction)
        for target, ending in zip(results.files(picture), results.endings):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, contents[ending], within=staging)

    found = predict_stream(model, batches, read, finish, settings, wanted=lambda picture: picture not in done)
    for picture, result in found:
        if isinstance(result, Exception):
            yield Saved(picture, (), result)
        elif picture not in done:
            yield Saved(picture, results.files(picture))


@contextmanager
def staging_folder(out: Path, process: tuple[int, int]) -> Iterator[Path]:
    """A folder for files on their way, of this process alone; those that killed runs left are deleted."""
    rank, processes = process
    parent, existed = out / _UNFINISHED, out.exists()
    lock = lock_folder(parent / str(rank), "predicts there; wait for it, or choose another folder")
    try:
        for rest in (parent / str(rank)).iterdir():
            if rest.name != LOCK:
                rest.unlink()
        yield parent / str(rank)
    finally:
        lock.release()
        shutil.rmtree(parent / str(rank), ignore_errors=True)
        if rank == 0:
            _remove_others(parent, processes)
        # Where another process works there still, its files are in the way.
        with suppress(OSError):
            parent.rmdir()
            if not existed:
                out.rmdir()


def _remove_others(parent: Path, processes: int) -> None:
    """Delete what killed processes left that have no successor, as there are fewer now."""
    for folder in parent.iterdir():
        if folder.name.isdecimal() and int(folder.name) >= processes:
            with suppress(ValueError), lock_folder(folder, ""):
                shutil.rmtree(folder, ignore_errors=True)
