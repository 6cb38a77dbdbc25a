"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from rich.console import Console

from demt.data import MultiTaskDataset
from demt.data.mixture import epoch_length
from demt.files import lock_folder, write_whole
from demt.models import MultiTaskModel
from demt.train.checkpoints import STATE, Checkpoints
from demt.train.data import SampleError, seed_all, to_device, train_loader
from demt.train.logs import ProgressLog
from demt.train.parts import training_mode
from demt.train.processes import agree, in_main
from demt.train.reading import recipe_dict, recipe_yaml
from demt.train.recipe import Recipe
from demt.train.report import Report, flat
from demt.train.run import Run, accelerator_for
from demt.train.state import read_state
from demt.train.stopping import StopSignals
from demt.train.window import Window

#: What may change when a run goes on: what has no part in the numbers of the steps that are done.
_FREE = {"out", "steps", "log_every", "eval_every", "save_every", "keep", "best", "samples", "trackers"}
_FREE |= {f"data.{name}" for name in ("root", "workers", "in_memory", "eval_batch_size", "on_error")}
_FREE |= {"model.grad_checkpointing", "model.compile", "model.pretrained_backbone"}
_logger = logging.getLogger("demt")


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
    """Train according to a recipe, in every process that the launcher started.

    Args:
        recipe: See `demt.train.Recipe`; `demt.train.load_recipe` reads one.
        train_set, val_set: Data sets to use instead of the recipe's, with their transforms.
        model: Used instead of the recipe's; its tasks must be those of the data. It is trained in place.
        resume: Resume from the newest checkpoint in the run's folder; without one, start.
        console: Where to print.

    Raises:
        ValueError: for settings that do not fit together; a folder that holds a run, without `resume`; a recipe that
            differs from the run's, with it; and `NonFiniteLossError` where a loss is infinite or NaN.
        OSError: if data cannot be read, or a checkpoint cannot be written; older ones stay.
    """
    accelerator = accelerator_for(recipe)
    folder = Path(recipe.out)
    checkpoints = Checkpoints(folder, recipe.keep)
    with contextlib.ExitStack() as stack:
        in_main(accelerator, lambda: stack.enter_context(lock_folder(folder, "trains there. Choose another `out`")))
        found = in_main(accelerator, lambda: _start(checkpoints, recipe, resume))
        start = broadcast_object_list([found and found[0]])[0] if accelerator.num_processes > 1 else found and found[0]
        run = Run(recipe, train_set=train_set, val_set=val_set, model=model, accelerator=accelerator)
        progress: dict[str, Any] = {"step": 0, "best": None, "results": {}, "evaluate": False}
        if start is not None:
            # The main process has read and checked it already.
            path, progress = start
            run.load(found[1] if found is not None else read_state(path / STATE))
        if progress["step"] < recipe.steps:
            in_main(accelerator, lambda: _enough_space(run, checkpoints))
            _rehearse(run, progress["step"])
        in_main(accelerator, lambda: _begin(checkpoints, recipe))
        report = Report(run, checkpoints, progress, console or Console())
        report.introduce()
        try:
            _steps(run, report)
        except RuntimeError as error:
            # Torch's message for a worker that the system killed.
            if "DataLoader worker" not in str(error):
                raise
            raise OSError(
                f"A process that reads data was killed ({str(error).splitlines()[0]}), often for lack of memory: lower "
                "data.workers or data.size, or set data.in_memory=false; resume with --resume"
            ) from error
        accelerator.end_training()
    return Trained(run.evaluated.eval(), report.progress["results"], folder)


def _start(
    checkpoints: Checkpoints, recipe: Recipe, resume: bool
) -> tuple[tuple[Path, dict[str, Any]], dict[str, Any]] | None:
    """Where a run goes on, and the state there; None at its beginning."""
    if checkpoints.newest() is not None and not resume:
        raise ValueError(f"{str(checkpoints.run)!r} holds a run; resume it (--resume), or choose another `out`")
    found = checkpoints.resume()
    if found is None:
        return None
    path, progress, state = found
    _same_recipe(recipe, progress["recipe"], path)
    if progress["recipe"].get("best") != recipe.best:
        _logger.warning("`best` is now %s: the best checkpoint is chosen among those to come", recipe.best)
        progress["best"] = None
    if progress["recipe"]["steps"] != recipe.steps:
        _logger.warning("`steps` is now %d: the learning rate follows that schedule from here on", recipe.steps)
    return (path, progress), state


def _begin(checkpoints: Checkpoints, recipe: Recipe) -> None:
    checkpoints.clean()
    text = recipe_yaml(recipe)
    write_whole(checkpoints.run / "recipe.yaml", lambda file: Path(file).write_text(text, encoding="utf-8"))


def _enough_space(run: Run, checkpoints: Checkpoints) -> None:
    """Refuse to start where the disk cannot hold the checkpoints that the run keeps."""
    weights = sum(value.numel() * value.element_size() for value in run.plain.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in run.plain.parameters() if p.requires_grad)
    # Evaluated, trained and averaged weights, and two moments of the optimiser.
    each = (2 + (run.ema is not None)) * weights + 2 * trained
    needed = each * max(run.recipe.keep + 1 - len(checkpoints.made), 1)
    free = shutil.disk_usage(checkpoints.run).free
    if free < needed:
        raise OSError(
            f"The disk of {str(checkpoints.run)!r} has {free / 1e9:.2f} GB free, {run.recipe.keep} checkpoints and the "
            f"one being written need about {needed / 1e9:.2f} GB. Free some, lower `keep`, or choose another `out`"
        )


def _rehearse(run: Run, step: int) -> None:
    names = run.rehearse(step)
    if run.recipe.best not in names:
        close = get_close_matches(run.recipe.best, names, n=3)
        hint = f"did you mean {close}?" if close else f"an evaluation has {sorted(names)}"
        raise ValueError(f"`best` names {run.recipe.best!r}; {hint}")


def _steps(run: Run, report: Report) -> None:
    recipe, accelerator, start = run.recipe, run.accelerator, report.progress["step"]
    loader = train_loader(run.train_set, recipe, start, accelerator.process_index, accelerator.num_processes)
    batches = iter(loader) if start < recipe.steps else iter(())
    window = Window(accelerator.device, len(run.criterion.tasks))
    with StopSignals() as stop, ProgressLog(report.console, start, recipe.steps, report.main) as log:
        if report.progress["evaluate"]:
            report.evaluate(start, log, stop)
        for step in range(start, recipe.steps):
            parts, error = _next(batches, recipe.accumulate, window)
            # All that has a part in the numbers is as it was after the step before: this is the place to stop.
            broken = window.check(run)
            stopping, error = agree(accelerator, stop.received is not None, broken or error)
            if (stopping or error is not None) and broken is None and step > report.saved:
                report.save(step, evaluate=False)
            if error is not None:
                raise error
            if stopping:
                report.console.print(f"Stopped and saved after step {step}; resume with --resume", highlight=False)
                stop.received = stop.received or signal.SIGTERM
                stop.leave()
            _step(run, parts, step, window)
            done = step + 1
            log.advance()
            last = done == recipe.steps
            if done == start + 1 or done % recipe.log_every == 0 or last:
                report.log(log, window.row(run, done))
            evaluating = done % recipe.eval_every == 0 or last
            if evaluating or done % recipe.save_every == 0:
                error = agree(accelerator, False, window.check(run))[1]
                if error is not None:
                    raise error
                report.save(done, evaluate=evaluating)
                if evaluating:
                    report.evaluate(done, log, stop)
                window.restart()


def _next(batches: Iterator[Any], count: int, window: Window) -> tuple[list[Any], Exception | None]:
    """The parts of a step's batch, or why they cannot be read."""
    waiting = time.perf_counter()
    try:
        return [next(batches) for _ in range(count)], None
    except SampleError as error:
        return [], error
    finally:
        window.waited += time.perf_counter() - waiting


def _step(run: Run, batches: list[Any], step: int, window: Window) -> None:
    """One step of the optimiser: the schedule, the accumulated parts of a batch, the average of the weights."""
    recipe, accelerator = run.recipe, run.accelerator
    length = epoch_length(run.train_set)
    run.schedule.step_update(step)
    training_mode(run.plain, recipe.model)
    run.criterion.train()
    # Checking labels waits for the device: it is done while samples are seen for the first time.
    run.criterion.validate = step * recipe.batch_size < length
    for part, batch in enumerate(batches):
        batch = to_device(batch, accelerator.device)
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


def _same_recipe(recipe: Recipe, before: dict[str, Any], checkpoint: Path) -> None:
    now, then = flat(_settled(recipe_dict(recipe))), flat(_settled(before))
    changed = sorted(name for name in {*now, *then} - _FREE if now.get(name) != then.get(name))
    if changed:
        shown = ", ".join(f"{name} ({then.get(name)!r}, now {now.get(name)!r})" for name in changed)
        raise ValueError(
            f"The run in {str(checkpoint)!r} has another recipe: {shown}. Use that recipe, or another `out`"
        )


def _settled(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what may change of the sources of its data; that of an older version has none."""
    data = values["data"]
    free = {name.partition("data.")[2] for name in _FREE}
    sources = [{name: v for name, v in source.items() if name not in free} for source in data.get("sources", [])]
    return {**values, "data": {**data, "sources": sources}}
