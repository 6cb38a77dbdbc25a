"""What a call of `demt predict` writes where, and what an earlier one like it has written already."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from demt.inference.forward import model_digest
from demt.inference.pictures import SHARD, Picture
from demt.inference.save import encode, endings, mark_of, not_ours
from demt.inference.shards import mark_of_shard
from demt.inference.stream import Read, Settings
from demt.models import MultiTaskModel
from demt.tasks import Task


class Results:
    """The files of a call.

    Args:
        model: Its digest is part of what marks the files.
        tasks: Tasks that are saved.
        kinds: See `demt.inference.save.endings`.
        settings: How the model runs.
        out: Folder of the files.
        note: A line on panels.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, Task],
        kinds: tuple[str, ...],
        settings: Settings,
        out: Path,
        note: str | None,
    ) -> None:
        self.tasks, self.kinds, self.out, self.note = tasks, kinds, out, note
        self.endings = endings(tasks, kinds)
        self._call = call_digest(model, kinds, settings, note)

    def encode(self, digest: str, read: Read, prediction: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
        """Contents of a picture's files by ending; `digest` is what `digest` gives of it."""
        return encode(self.tasks, prediction, read.shown, self.kinds, digest=digest, note=self.note)

    def check_names(self, names: Collection[str]) -> None:
        """Two pictures, ``a`` and ``a_b``, share a file where the tasks are ``b_c`` and ``c``.

        Raises:
            FileExistsError: if two of these do.
        """
        for longer, shorter in itertools.permutations(self.endings, 2):
            if not longer.endswith(shorter):
                continue
            if shared := [name for name in names if name + longer.removesuffix(shorter) in names]:
                raise FileExistsError(
                    f"{shared[0] + longer!r} would be the result of two images: predict on them one after the other, "
                    "into two folders"
                )

    def files(self, picture: Picture) -> tuple[Path, ...]:
        """Where the results of a picture or a shard are."""
        endings = [SHARD] if picture.path.suffix.lower() == SHARD else self.endings
        return tuple(self.out / f"{picture.name}{ending}" for ending in endings)

    def digest(self, picture: Picture) -> str:
        """What marks the files of a picture: the call, and which picture it was."""
        text = json.dumps([self._call, picture.path.as_posix(), picture.path.stat().st_size])
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]

    def is_done(self, picture: Picture) -> bool:
        """Whether a picture's files are there, of a call such as this one, and newer than the picture.

        Raises:
            FileExistsError: if one is there that no such call wrote.
        """
        files = self.files(picture)
        there = [file for file in files if file.exists()]
        marks = [mark_of_shard(file) if file.suffix == SHARD else mark_of(file) for file in there]
        if None in marks:
            raise not_ours(there[marks.index(None)])
        if len(there) < len(files) or not picture.path.is_file():
            return False
        changed = picture.path.stat().st_mtime_ns
        newer = all(file.stat().st_mtime_ns >= changed for file in there)
        return newer and set(marks) == {self.digest(picture)}


def call_digest(model: MultiTaskModel, kinds: Sequence[str], settings: Settings, note: str | None) -> str:
    """What tells a call from another one by its results, but for rounding."""
    tasks = [(model.tasks[name].classes, model.tasks[name].palette, model.tasks[name].unit) for name in settings.tasks]
    run = [settings.tasks, settings.max_size, settings.tiles, settings.precision]
    what = [model_digest(model), tasks, run, kinds, note]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
