"""Predictions on folders of pictures as files: any number of pictures, in memory that does not grow with it."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from demt.data.files import picture_size
from demt.data.images import read_image, read_image_bytes
from demt.files import LOCK, lock_folder, write_bytes, write_whole
from demt.inference.forward import check_precision, model_digest
from demt.inference.pictures import SHARD, Picture, Saved, find_pictures, share
from demt.inference.predict import check_options
from demt.inference.prediction import trained_on_note
from demt.inference.preprocess import fitted_size
from demt.inference.save import DEFAULT_KINDS, encode, endings, mark_of, not_ours
from demt.inference.shards import (
    Sample,
    ShardError,
    mark_of_shard,
    need_webdataset,
    read_shard,
    shard_writer,
    windows_of,
)
from demt.inference.stream import Item, Read, Settings, as_read, predict_stream
from demt.models import MultiTaskModel
from demt.tasks import Task

#: Files on their way, in the folder of results. What a killed run leaves there is deleted by the next.
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
        threads: Threads that read and write, beside the one that runs the model.
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
    run = _Run(model, chosen, kinds, settings, Path(out), note)
    return run.results(pictures, process)


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


class _Run:
    """One call: what it writes where, and what is there already."""

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, Task],
        kinds: tuple[str, ...],
        settings: Settings,
        out: Path,
        note: str | None,
    ) -> None:
        self.model, self.tasks, self.kinds = model, tasks, kinds
        self.settings, self.out, self.note = settings, out, note
        self.endings = endings(tasks, kinds)
        self.identity = call_digest(model, kinds, settings, note)

    def results(self, pictures: Sequence[Picture], process: tuple[int, int]) -> Iterator[Saved]:
        if self.out.exists() and not self.out.is_dir():
            raise FileExistsError(f"Expected `out` to be a folder, {str(self.out)!r} is a file; choose another")
        shards = [picture for picture in pictures if picture.path.suffix.lower() == SHARD]
        single = [picture for picture in pictures if picture.path.suffix.lower() != SHARD]
        if shards:
            need_webdataset()
        self._check_names({picture.name for picture in single})
        windows = [[single[place] for place in window] for window in share(len(single), process)]
        mine = [shards[place] for window in share(len(shards), process, 1) for place in window]
        # Whatever would be replaced is looked for before anything is written.
        done = {picture for window in windows for picture in window if self._is_done(picture)}
        done |= {shard for shard in mine if self._is_done(shard)}
        return self._all(windows, mine, done, process)

    def _check_names(self, names: set[str]) -> None:
        """Two pictures, ``a`` and ``a_b``, share a file where the tasks are ``b_c`` and ``c``."""
        for longer, shorter in itertools.permutations(self.endings, 2):
            if not longer.endswith(shorter):
                continue
            if shared := [name for name in names if name + longer.removesuffix(shorter) in names]:
                raise FileExistsError(
                    f"{shared[0] + longer!r} would be the result of two images: predict on them one after the other, "
                    "into two folders"
                )

    def _all(
        self, windows: list[list[Picture]], shards: list[Picture], done: set[Picture], process: tuple[int, int]
    ) -> Iterator[Saved]:
        given = [*itertools.chain.from_iterable(windows), *shards]
        for picture in given:
            if picture in done:
                yield Saved(picture, self._files(picture), is_new=False)
        if len(done) < len(given):
            with _staging(self.out, process) as staging:
                yield from self._pictures(windows, done, staging)
                for shard in shards:
                    if shard not in done:
                        yield from self._shard(shard, staging)

    def _shard(self, shard: Picture, staging: Path) -> list[Saved]:
        if not shard.path.is_file():
            return [Saved(shard, (), FileNotFoundError(f"No shard at {str(shard.path)!r}"))]
        (target,) = self._files(shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        saved: list[Saved] = []
        try:
            write_whole(target, partial(self._write_shard, shard, saved), within=staging)
        except ShardError as error:
            # There is no file then, also of pictures before the error.
            return [*(each for each in saved if each.error), Saved(shard, (), error)]
        return saved

    def _write_shard(self, shard: Picture, saved: list[Saved], path: str) -> None:
        digest = self._digest(shard)

        def read(sample: Sample) -> Read:
            return as_read(self.model, read_image_bytes(sample.contents, sample.path), self.settings)

        def finish(sample: Sample, read: Read, prediction: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
            return encode(self.tasks, prediction, read.shown, self.kinds, digest=digest, note=self.note)

        with shard_writer(path) as write:
            batches = (
                batch
                for window in windows_of(read_shard(shard.path))
                for batch in self._batches(window, lambda sample: picture_size(sample.path, sample.contents))
            )
            for sample, result in predict_stream(self.model, batches, read, finish, self.settings):
                picture = Picture(sample.path, sample.key)
                if isinstance(result, dict):
                    write(sample.key, result)
                    saved.append(Saved(picture, self._files(shard)))
                elif result is not None:
                    saved.append(Saved(picture, (), result))
        if all(each.error for each in saved):
            raise ShardError(f"{str(shard.path)!r} has no picture that can be read")

    def _pictures(self, windows: list[list[Picture]], done: set[Picture], staging: Path) -> Iterator[Saved]:
        batches = (
            batch
            for window in windows
            if not done.issuperset(window)
            for batch in self._batches(window, lambda picture: picture_size(picture.path))
            if not done.issuperset(batch)
        )

        # Of the file that was read, which may be gone when its predictions are written.
        digests: dict[Picture, str] = {}

        def finish(picture: Picture, read: Read, prediction: Mapping[str, NDArray[Any]]) -> None:
            digest = digests.pop(picture)
            contents = encode(self.tasks, prediction, read.shown, self.kinds, digest=digest, note=self.note)
            for target, ending in zip(self._files(picture), self.endings):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(target, contents[ending], within=staging)

        def read(picture: Picture) -> Read:
            image = read_image(picture.path)
            digests[picture] = self._digest(picture)
            return as_read(self.model, image, self.settings)

        found = predict_stream(
            self.model, batches, read, finish, self.settings, wanted=lambda picture: picture not in done
        )
        for picture, result in found:
            if isinstance(result, Exception):
                yield Saved(picture, (), result)
            elif picture not in done:
                yield Saved(picture, self._files(picture))

    def _batches(
        self, window: Sequence[Item], size_of: Callable[[Item], tuple[int, int] | None]
    ) -> Iterator[list[Item]]:
        """Pictures of one size, as far as their headers tell."""
        groups: dict[tuple[int, int] | None, list[Item]] = {}
        for picture in window:
            size = size_of(picture)
            groups.setdefault(size and fitted_size(size, self.settings.max_size), []).append(picture)
        for group in groups.values():
            for start in range(0, len(group), self.settings.pictures):
                yield group[start : start + self.settings.pictures]

    def _files(self, picture: Picture) -> tuple[Path, ...]:
        endings = [SHARD] if picture.path.suffix.lower() == SHARD else self.endings
        return tuple(self.out / f"{picture.name}{ending}" for ending in endings)

    def _digest(self, picture: Picture) -> str:
        """What marks the files of a picture: the call, and which picture it was."""
        text = json.dumps([self.identity, picture.path.as_posix(), picture.path.stat().st_size])
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]

    def _is_done(self, picture: Picture) -> bool:
        """Whether a picture's files are there, of a call such as this one, and newer than the picture.

        Raises:
            FileExistsError: if one is there that no such call wrote.
        """
        files = self._files(picture)
        there = [file for file in files if file.exists()]
        marks = [mark_of_shard(file) if file.suffix == SHARD else mark_of(file) for file in there]
        if None in marks:
            raise not_ours(there[marks.index(None)])
        if len(there) < len(files) or not picture.path.is_file():
            return False
        changed = picture.path.stat().st_mtime_ns
        newer = all(file.stat().st_mtime_ns >= changed for file in there)
        return newer and set(marks) == {self._digest(picture)}


def call_digest(model: MultiTaskModel, kinds: Sequence[str], settings: Settings, note: str | None) -> str:
    """What tells a call from another one by its results, but for rounding."""
    tasks = [(model.tasks[name].classes, model.tasks[name].palette, model.tasks[name].unit) for name in settings.tasks]
    run = [settings.tasks, settings.max_size, settings.tiles, settings.precision]
    what = [model_digest(model), tasks, run, kinds, note]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@contextmanager
def _staging(out: Path, process: tuple[int, int]) -> Iterator[Path]:
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
