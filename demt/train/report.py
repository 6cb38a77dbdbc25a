"""What a run writes and reports: checkpoints and their cards, logs, evaluations, pictures."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from demt.data.counts import summary
from demt.data.mixture import Mixture
from demt.hub.card import ModelCard, write_card
from demt.hub.folder import write_folder
from demt.hub.remote import LOCAL
from demt.metrics.functional.gain import LOWER_IS_BETTER
from demt.train.checkpoints import STATE, Checkpoints
from demt.train.data import describe
from demt.train.logs import CsvLog, ProgressLog, draw_samples, forgiven
from demt.train.processes import in_main
from demt.train.reading import recipe_dict
from demt.train.run import NonFiniteWeightsError, Run
from demt.train.state import not_finite, write_state
from demt.train.stopping import StopSignals

_logger = logging.getLogger("demt")


class Report:
    """What a run writes: checkpoints, logs, and what it prints.

    Args:
        run: The run.
        checkpoints: Where they go.
        progress: What the run has done: steps, the best value, the results of the last evaluation, and whether the
            evaluation of these steps is to be done.
        console: Where to print.
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, progress: dict[str, Any], console: Console) -> None:
        self.run, self.checkpoints, self.progress, self.console = run, checkpoints, progress, console
        self.folder, self.main = checkpoints.run, run.accelerator.is_main_process
        self.saved = progress["step"]
        if self.main:
            self.losses = CsvLog(self.folder / "train.csv", self.saved)
            self.results = CsvLog(self.folder / "eval.csv", self.saved)

    def introduce(self) -> None:
        """Print what is trained, and on what."""
        run, recipe = self.run, self.run.recipe
        if recipe.trackers:
            run.accelerator.init_trackers("tracked", config=flat(recipe_dict(recipe)))
        if not self.main:
            return
        self.console.print(run.table)
        if isinstance(run.train_set, Mixture):
            self.console.print(f"Training mixes {run.train_set!r}", highlight=False, soft_wrap=True, markup=False)
        for split, dataset in (("Training", run.train_set), ("Evaluation", run.val_set)):
            for task, counts in summary(dataset).items():
                self.console.print(f"{split}, labels of {task}: {counts}", highlight=False, soft_wrap=True)
        if run.accelerator.device.type == "cpu" and _has_gpu():
            self.console.print("There is a GPU, but this torch does not use it: see https://pytorch.org/get-started")

    def log(self, log: ProgressLog, row: dict[str, float]) -> None:
        """Report a row of the training log."""
        if self.main:
            self.losses.write(row)
            log.report(row)
        self._track({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def save(self, step: int, *, evaluate: bool) -> None:
        """Write a checkpoint.

        Raises:
            NonFiniteWeightsError: where weights are infinite or NaN.
            OSError: if it cannot be written.
        """
        run = self.run
        weights, state = run.state()
        self.progress |= {"step": step, "recipe": recipe_dict(run.recipe), "evaluate": evaluate}

        def write() -> None:
            # What dynamic weight averages have not measured yet is NaN.
            bad = [*not_finite({name: value for name, value in state.items() if name != "balancing"})]
            bad += not_finite(weights)
            if bad:
                raise NonFiniteWeightsError(step, bad)
            self.checkpoints.write(step, fill, self.progress)

        def fill(folder: Path) -> None:
            write_folder(folder, run.config, run.plain.pretrained_cfg, weights)
            self._card(folder, "last")
            write_state(folder / STATE, state)

        in_main(run.accelerator, write)
        self.saved = step

    def evaluate(self, step: int, log: ProgressLog, stop: StopSignals) -> None:
        """Evaluate the weights of the checkpoint just written; where they are the best ones, keep them."""

        def advance(images: int) -> None:
            # The checkpoint says that its evaluation is to be done.
            if stop.received is not None:
                stop.leave()

        run, recipe = self.run, self.run.recipe
        found = run.evaluate(advance)
        best = _better(found, self.progress["best"], recipe.best)
        self.progress |= {"results": found, "best": found[recipe.best] if best else self.progress["best"]}
        self.progress["evaluate"] = False

        def write() -> None:
            self.checkpoints.update(step, self.progress)
            self._card(self.folder / "last", "last")
            if best:
                self.checkpoints.publish("best", step)
                self._card(self.folder / "best", "best")

        in_main(run.accelerator, write)
        if self.main:
            self.results.write({"step": step, **found})
            log.results(step, found, run.criterion.tasks)
            if not run.sharded and recipe.samples:
                with forgiven("draw samples"):
                    draw_samples(run.evaluated, run.val_set, recipe.samples, self.folder / "samples", step)
        self._track(found, step)

    def _card(self, folder: Path, name: str) -> None:
        """Write the model card of a folder."""
        run, recipe = self.run, self.run.recipe
        results = {key: v for key, v in self.progress["results"].items() if key.split("/")[0] in run.plain.tasks}
        data = describe(recipe.data)
        card = ModelCard(
            summary=f"After {self.progress['step']:,} of {recipe.steps:,} steps of `demt train`.",
            training_data=f"{len(run.train_set):,} images of {data}",
            initial_weights=run.started_from,
            results=results or None,
            protocol=f"{run.metrics.protocol.name}, {len(run.val_set):,} images of {data}" if results else None,
        )
        count = sum(parameter.numel() for parameter in run.evaluated.parameters())
        source = f"{LOCAL}{(self.folder / name).as_posix()}"
        with forgiven("write the model card"):
            write_card(folder, card, run.config, run.plain.pretrained_cfg, count, source)

    def _track(self, values: dict[str, float], step: int) -> None:
        with forgiven("write to the trackers"):
            self.run.accelerator.log(values, step=step)


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and not torch.cuda.is_available()


def _better(found: dict[str, float], best: float | None, name: str) -> bool:
    if not math.isfinite(found.get(name, math.nan)):
        _logger.warning("`best` is %s, for which this evaluation has no value: the best checkpoint stays", name)
        return False
    if best is None:
        return True
    lower = name.split("/")[0] == "loss" or name.rsplit("/", 1)[-1] in LOWER_IS_BETTER
    return found[name] < best if lower else found[name] > best


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names; what a logger cannot hold as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and prefix == "":
            found |= flat(value, f"{name}.")
        else:
            found[prefix + name] = value if isinstance(value, (int, float, str)) else repr(value)
    return found
