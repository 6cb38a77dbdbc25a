"""Checkpoints of a run: folders that are complete or absent.

``checkpoints/step_0000100/`` holds config.json, model.safetensors and a model card, as `save_pretrained` writes them,
of the weights that are evaluated (the average, where there is one); ``progress.json``; and ``state/``, what the run
goes on from. ``last/`` and ``best/`` beside ``checkpoints/`` are folders with the model alone, so that they are models
for every command and every copy of the run; no file system has to have symbolic links for that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demt.files.weights import read_safetensors
from demt.hub.folder import CARD, CONFIG, WEIGHTS, read_config
from demt.train.state import read_state

PROGRESS, STATE = "progress.json", "state"
_NAME, _PART = re.compile(r"step_(\d{7,})"), re.compile(r"\.step_\d{7,}\.part")
_logger = logging.getLogger("demt")


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        run: The run's folder.
        keep: How many of the newest ones stay.
    """

    def __init__(self, run: Path, keep: int = 2) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.keep = keep
        #: Names of checkpoints that this run wrote and that are there. No others are deleted.
        self.made: list[str] = []

    def all(self) -> list[Path]:
        """The checkpoints, those of fewer steps first."""
        found = self.folder.iterdir() if self.folder.is_dir() else iter(())
        steps = {path: match for path in found if path.is_dir() and (match := _NAME.fullmatch(path.name))}
        return sorted(steps, key=lambda path: int(steps[path][1]))

    def newest(self) -> Path | None:
        """The checkpoint of the most steps, if there is any."""
        return max(self.all(), key=lambda path: int(path.name[5:]), default=None)

    def resume(self) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
        """The newest whole checkpoint, its progress and its state; None where there is none at all.

        Damaged ones are renamed, and a warning says so.

        Raises:
            ValueError: if all are damaged.
        """
        damaged: list[str] = []
        for path in reversed(self.all()):
            try:
                progress = self.read_progress(path)
                state = _read_whole(path, progress)
            except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
                damaged.append(f"{str(path)!r}: {error}")
                continue
            for text, bad in zip(damaged, reversed(self.all())):
                _logger.warning("Damaged checkpoint %s; going on from %s, it is now %s", text, path.name, _aside(bad))
            # The file may have been edited: nothing but a checkpoint's folder is ever deleted.
            names = [name for name in progress.get("made", []) if isinstance(name, str) and _NAME.fullmatch(name)]
            self.made = [name for name in names if (self.folder / name).is_dir()]
            return path, progress, state
        if damaged:
            raise ValueError(f"No checkpoint in {str(self.folder)!r} is complete: {'; '.join(damaged)}")
        return None

    def read_progress(self, checkpoint: Path) -> dict[str, Any]:
        """What `write` was given as `progress`."""
        values: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
        return values

    def clean(self) -> None:
        """Remove what a killed run left half-written."""
        for rest in self.folder.glob(".step_*"):
            if _PART.fullmatch(rest.name):
                shutil.rmtree(rest, ignore_errors=True)

    def write(
        self,
        step: int,
        fill: Callable[[Path], None],
        progress: dict[str, Any],
        *,
        best: bool = False,
        main: bool = True,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Write a checkpoint; it appears when it is complete, becomes `last`, and then the oldest ones go.

        Args:
            step: Steps done.
            fill: Writes the files into a folder.
            progress: JSON values to keep beside them.
            best: Whether it becomes the best one, too.
            main: Whether this is the process that writes.
            wait: Waits for all processes.

        Raises:
            OSError: if a file cannot be written; the older checkpoints are there as before.
        """
        try:
            if main:
                self._write(f"step_{step:07d}", fill, progress)
                for name in ("last", "best") if best else ("last",):
                    self.publish(name, step)
                for old in self.made[: -self.keep]:
                    shutil.rmtree(self.folder / old, ignore_errors=True)
                self.made = self.made[-self.keep :]
        finally:
            wait()

    def _write(self, name: str, fill: Callable[[Path], None], progress: dict[str, Any]) -> None:
        part, target = self.folder / f".{name}.part", self.folder / name
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            fill(part)
            files = [path for path in part.rglob("*") if path.is_file() and path.name != CARD]
            sizes = {path.relative_to(part).as_posix(): path.stat().st_size for path in files}
            made = [*(old for old in self.made if old != name), name]
            self._write_progress(part, {**progress, "made": made, "files": sizes})
            _flush(part)
            if target.exists():
                if name in self.made:
                    shutil.rmtree(target)
                else:
                    _aside(target)
            os.replace(part, target)
            _flush_folder(self.folder)
            self.made = made
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def update(self, step: int, progress: dict[str, Any]) -> None:
        """Replace the progress of a checkpoint, after its evaluation say."""
        path = self.folder / f"step_{step:07d}"
        before = self.read_progress(path)
        self._write_progress(path, {**progress, "made": before["made"], "files": before["files"]})

    def _write_progress(self, folder: Path, progress: dict[str, Any]) -> None:
        part = folder / f".{PROGRESS}.part"
        part.write_text(json.dumps(progress) + "\n", encoding="utf-8")
        _flush_file(part)
        os.replace(part, folder / PROGRESS)

    def publish(self, name: str, step: int) -> None:
        """Make the model of a checkpoint that of `last` or `best`: file by file, each replaced when it is complete."""
        checkpoint, target = self.folder / f"step_{step:07d}", self.run / name
        target.mkdir(exist_ok=True)
        for file in sorted(path for path in checkpoint.iterdir() if path.is_file() and path.name != PROGRESS):
            part = target / f".{file.name}.part"
            part.unlink(missing_ok=True)
            try:
                # A hard link costs no space, if the file system has them.
                os.link(file, part)
            except OSError:
                shutil.copyfile(file, part)
                _flush_file(part)
            os.replace(part, target / file.name)
        _flush_folder(target)


def _read_whole(path: Path, progress: dict[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint, all of whose files have been looked at."""
    for name, size in progress["files"].items():
        found = (path / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found} bytes, {size} were written")
    if (path / CONFIG).exists():
        read_config(path / CONFIG)
        read_safetensors(path / WEIGHTS)
    return read_state(path / STATE)


def _aside(path: Path) -> str:
    """Rename a folder, to a name that no checkpoint has."""
    names = (f"{path.name}.damaged{number or ''}" for number in range(10_000))
    name = next(name for name in names if not (path.parent / name).exists())
    os.replace(path, path.parent / name)
    return name


def _flush(folder: Path) -> None:
    """Bring files onto the disk before their folder gets its name: a power failure must not leave a hollow one."""
    for path in folder.rglob("*"):
        if path.is_file():
            _flush_file(path)
    _flush_folder(folder)


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # Windows opens no folders, and some network drives do not flush them.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
