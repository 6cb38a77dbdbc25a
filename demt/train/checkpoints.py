"""Checkpoints of a run: folders that are whole or absent, and the links `last` and `best` to two of them.

``checkpoints/step_0000100/`` holds config.json, model.safetensors and a model card, as `save_pretrained` writes them,
of the weights that were evaluated (the average, where there is one); ``progress.json``; and ``state/``, what Accelerate
needs to go on: trained weights, optimiser, gradient scaler, averages.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demt.config import ModelConfig

PROGRESS, STATE = "progress.json", "state"


class Checkpoints:
    """The checkpoints in a run's folder.

    Args:
        run: The run's folder; checkpoints lie in its ``checkpoints``, the links beside that.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / "checkpoints"

    def newest(self) -> Path | None:
        """The whole checkpoint of the most steps, if there is any."""
        return max(self.folder.glob("step_*"), default=None)

    def read_progress(self, checkpoint: Path) -> dict[str, Any]:
        """What `write` was given as `progress`."""
        values: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
        return values

    def clean(self) -> None:
        """Remove what a killed run left half-written."""
        for rest in self.folder.glob(".step_*"):
            shutil.rmtree(rest, ignore_errors=True)

    def write(
        self,
        step: int,
        fill: Callable[[Path], None],
        progress: dict[str, Any],
        *,
        best: bool,
        main: bool,
        wait: Callable[[], None],
    ) -> None:
        """Write a checkpoint; it appears when it is complete, and then older ones than `last` and `best` go.

        Args:
            step: Steps done.
            fill: Writes the files into a folder; called in every process.
            progress: JSON values to keep beside them.
            best: Whether it becomes the best one.
            main: Whether this is the main process.
            wait: Waits for all processes.

        Raises:
            OSError: if a file cannot be written; the older checkpoints are there as before.
        """
        name = f"step_{step:07d}"
        part = self.folder / f".{name}"
        if main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        wait()
        try:
            # Accelerate and torch raise RuntimeError where the disk is full.
            try:
                fill(part)
            except RuntimeError as error:
                raise OSError(
                    f"Cannot write the checkpoint of step {step} into {str(self.folder)!r}: {error}"
                ) from error
            wait()
            if main:
                (part / PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")
                _flush(part)
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)
                os.replace(part, self.folder / name)
        except BaseException:
            if main:
                shutil.rmtree(part, ignore_errors=True)
            raise
        if main:
            for link in ("last", "best") if best else ("last",):
                self._link(link, name)
            kept = {(self.run / link).resolve() for link in ("last", "best")}
            for old in self.folder.glob("step_*"):
                if old.resolve() not in kept:
                    shutil.rmtree(old, ignore_errors=True)
        wait()

    def _link(self, link: str, name: str) -> None:
        temporary = self.run / f".{link}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("checkpoints") / name, target_is_directory=True)
        os.replace(temporary, self.run / link)


def _flush(folder: Path) -> None:
    """Bring files onto the disk before their folder gets its name: a power failure must not leave a hollow one."""
    for path in [*(file for file in folder.rglob("*") if file.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_weights(folder: Path, config: ModelConfig, preprocessing: Any, state: dict[str, Any]) -> None:
    """Write weights as `save_pretrained` does, whatever wrapper they come from."""
    from demt.models import MultiTaskModel

    model = MultiTaskModel.outline(config, str(folder))
    model.pretrained_cfg = preprocessing
    model.load_state_dict(state, assign=True)
    model.save_pretrained(folder)
