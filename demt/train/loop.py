"""The training loop."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from demt.data import MultiTaskDataset
from demt.files import write_whole
from demt.metrics.functional.gain import LOWER_IS_BETTER
from demt.models import MultiTaskModel
from demt.train.checkpoints import Checkpoints
from demt.train.data import seed_all, to_device, train_loader
from demt.train.logs import CsvLog, ProgressLog, draw_samples
from demt.train.parts import training_mode
from demt.train.reading import recipe_dict, recipe_yaml
from demt.train.recipe import Recipe
from demt.train.run import Run

#: What may change when a run goes on: nothing that has a part in the numbers.
_FREE = {"out", "log_every", "eval_every", "save_every", "samples", "trackers", "data.root", "data.workers"}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run leaves.

    Attributes:
        model: The trained model, in eval mode; the average of the weights where the recipe asks for one.
        results: The last evaluation: metrics by ``"task/metric"``, ``"loss"`` and ``"loss/task"``.
        folder: The run's folder, with the checkpoints ``last`` and ``best``.
    """

    model: MultiTaskModel
    results: dict[str, float]
    folder: Path


def train(
    recipe: Recipe,
    *,
    train_set: MultiTaskDataset | None = None,
    val_set: MultiTaskDataset | None = None,
    model: MultiTaskModel | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Trained:
    """Train as a recipe says, in every process that the launcher started.

    Args:
        recipe: See `demt.train.Recipe`; `demt.train.load_recipe` reads one.
        train_set, val_set: Data sets in place of the recipe's, with their transforms.
        model: In place of the recipe's; its tasks must be those of the data. It is trained in place.
        resume: Go on from the newest checkpoint in the run's folder; without one, start.
        console: Where to print.

    Raises:
        ValueError: for settings that do not fit together; a folder that holds a run, without `resume`; a recipe that
            differs from the run's, with it; and `NonFiniteLossError` where a loss is infinite or NaN.
        OSError: if data cannot be read, or a checkpoint not be written; older ones stay.
    """
    folder = Path(recipe.out)
    checkpoints = Checkpoints(folder)
    newest = checkpoints.newest()
    if newest is not None and not resume:
        raise ValueError(f"{str(folder)!r} holds a run; go on with it (--resume), or choose another `out`")
    progress = checkpoints.read_progress(newest) if newest is not None else {"step": 0, "best": None, "results": {}}
    if newest is not None:
        _same_recipe(recipe, progress["recipe"], newest)
    run = Run(recipe, train_set=train_set, val_set=val_set, model=model)
    main = run.accelerator.is_main_process
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.clean()
        write_whole(folder / "recipe.yaml", lambda file: Path(file).write_text(recipe_yaml(recipe), encoding="utf-8"))
    if newest is not None:
        run.load(newest)
    if recipe.trackers:
        run.accelerator.init_trackers("tracked", config=_flat(recipe_dict(recipe)))
    progress = _steps(run, checkpoints, progress, console or Console())
    run.accelerator.end_training()
    return Trained(run.evaluated.eval(), progress["results"], folder)


def _steps(run: Run, checkpoints: Checkpoints, progress: dict[str, Any], console: Console) -> dict[str, Any]:
    recipe, accelerator, start = run.recipe, run.accelerator, progress["step"]
    main, folder = accelerator.is_main_process, checkpoints.run
    if main:
        console.print(run.table)
        losses, results = CsvLog(folder / "train.csv", start), CsvLog(folder / "eval.csv", start)
    loader = iter(accelerator.prepare(train_loader(run.train_set, recipe, start)))
    window = Window(accelerator.device, len(run.criterion.tasks))
    with ProgressLog(console, start, recipe.steps, main) as log:
        for step in range(start, recipe.steps):
            _step(run, loader, step, window)
            done = step + 1
            log.advance()
            last = done == recipe.steps
            if done == start + 1 or done % recipe.log_every == 0 or last:
                row = window.row(run, done)
                if main:
                    losses.write(row)
                    log.report(row)
                accelerator.log({name: value for name, value in row.items() if name != "step"}, step=done)
            evaluating = done % recipe.eval_every == 0 or last
            if not (evaluating or done % recipe.save_every == 0):
                continue
            window.check(run)
            best = False
            if evaluating:
                found = run.evaluate()
                best = _better(found, progress["best"], recipe.best)
                progress |= {"results": found, "best": found[recipe.best] if best else progress["best"]}
                if main:
                    results.write({"step": done, **found})
                    log.results(done, found)
                    if not run.sharded:
                        draw_samples(run.evaluated, run.val_set, recipe.samples, folder / "samples", done)
                accelerator.log(found, step=done)
            progress |= {"step": done, "recipe": recipe_dict(recipe)}
            checkpoints.write(done, run.fill, progress, best=best, main=main, wait=accelerator.wait_for_everyone)
            window.restart()
    return progress


def _step(run: Run, loader: Any, step: int, window: Window) -> None:
    """One step of the optimiser: the schedule, the accumulated parts of a batch, the average of the weights."""
    recipe, accelerator = run.recipe, run.accelerator
    length = len(run.train_set)
    run.schedule.step_update(step)
    training_mode(run.plain, recipe.model)
    run.criterion.train()
    # Checking labels waits for the device: it is done while samples are seen for the first time.
    run.criterion.validate = step * recipe.batch_size < length
    for part in range(recipe.accumulate):
        waiting = time.perf_counter()
        batch = to_device(next(loader), accelerator.device)
        window.waited += time.perf_counter() - waiting
        # What the network draws depends on the step alone, so that a resumed run draws the same.
        seed_all(recipe.seed, step, part, accelerator.process_index)
        with accelerator.accumulate(run.model):
            outputs = run.model(batch["image"])
            try:
                result = run.loss(outputs, batch)
            except ValueError as error:
                raise ValueError(f"At step {step}, samples {run.ids(batch)}: {error}") from error
            window.add(run, step, run.ids(batch), result)
            accelerator.backward(result.total)
            if recipe.optim.clip_grad is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(run.model.parameters(), recipe.optim.clip_grad)
            run.optimizer.step()
            run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update(run.plain, step=step + 1)
    if (step + 1) * recipe.batch_size // length > step * recipe.batch_size // length:
        run.criterion.step_epoch()


class Window:
    """Losses and times since the last row of the log. Losses are looked at a step late: the device does not wait."""

    def __init__(self, device: torch.device, tasks: int) -> None:
        self.sums = torch.zeros(2, tasks + 1, device=device)
        self.weights = torch.zeros(tasks, device=device)
        self.unchecked: tuple[int, list[str], torch.Tensor] | None = None
        self.restart()

    def restart(self) -> None:
        """Start measuring time, e.g. after an evaluation."""
        self.started, self.waited, self.parts, self.sums = time.perf_counter(), 0.0, 0, torch.zeros_like(self.sums)

    def add(self, run: Run, step: int, ids: list[str], result: Any) -> None:
        """Count a batch."""
        self.check(run)
        parts = torch.stack([*result.parts.values()]).detach()
        present = torch.stack([*result.labelled.values()]) > 0
        one = parts.new_ones(1)
        values = torch.cat([result.total.detach()[None], parts])
        self.sums = self.sums + torch.stack([values, torch.cat([one, present.to(parts.dtype)])])
        self.weights = torch.stack([*result.weights.values()]).detach()
        self.unchecked = (step, ids, parts)
        self.parts += 1

    def check(self, run: Run) -> None:
        """Stop the run if the losses of the batch before are not finite."""
        if self.unchecked is not None:
            run.finite_or_stop(*self.unchecked)
            self.unchecked = None

    def row(self, run: Run, done: int) -> dict[str, float]:
        """Means over the window and all processes: of each loss over the batches that had labels. Starts anew."""
        self.check(run)
        values, counts = run.accelerator.reduce(self.sums, reduction="mean")
        total, *parts = (values / counts.clamp_min(1)).tolist()
        seconds = max(time.perf_counter() - self.started, 1e-9)
        row: dict[str, float] = {"step": done, "lr": max(group["lr"] for group in run.optimizer.param_groups)}
        row |= {"total": total, **{f"loss/{name}": part for name, part in zip(run.criterion.tasks, parts)}}
        row |= {f"weight/{name}": weight for name, weight in zip(run.criterion.tasks, self.weights.tolist())}
        row |= {"steps_per_second": self.parts / run.recipe.accumulate / seconds, "data_wait": self.waited / seconds}
        self.restart()
        return row


def _better(found: dict[str, float], best: float | None, name: str) -> bool:
    if name not in found:
        raise ValueError(f"`best` names {name!r}; an evaluation has {sorted(found)}")
    if best is None:
        return True
    lower = name.split("/")[0] == "loss" or name.rsplit("/", 1)[-1] in LOWER_IS_BETTER
    return found[name] < best if lower else found[name] > best


def _same_recipe(recipe: Recipe, before: dict[str, Any], checkpoint: Path) -> None:
    now, then = _flat(recipe_dict(recipe)), _flat(before)
    changed = sorted(name for name in {*now, *then} - _FREE if now.get(name) != then.get(name))
    if changed:
        shown = ", ".join(f"{name} ({then.get(name)!r}, now {now.get(name)!r})" for name in changed)
        raise ValueError(f"The run in {str(checkpoint)!r} has another recipe: {shown}. Take its own, or another `out`")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names; what a logger cannot hold as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and prefix == "":
            flat |= _flat(value, f"{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (int, float, str)) else repr(value)
    return flat
