"""`demt eval-boundary`: score saved boundary predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from demt.cli.common import console, errors, friendly_errors
from demt.files import write_whole
from demt.inference.processes import cores

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from demt.metrics.boundary.files import BoundarySettings
    from demt.metrics.functional import BoundaryCounts

Result = TypeVar("Result")

#: Usual tolerances of two data sets, as fractions of the image diagonal.
MAX_DISTANCE = {"nyud": 0.011, "pascal": 0.0075}


class DatasetName(str, Enum):
    """Data sets with a usual tolerance."""

    nyud = "nyud"
    pascal = "pascal"


class NmsChoice(str, Enum):
    """Suppression before thresholding."""

    none = "none"
    seism = "seism"
    mtdp = "mtdp"


class GtChoice(str, Enum):
    """What is true."""

    seism = "seism"
    raw = "raw"


class BackendChoice(str, Enum):
    """Implementation; the numbers are the same."""

    auto = "auto"
    numba = "numba"
    numpy = "numpy"


def eval_boundary(
    predictions: Annotated[
        Path, typer.Argument(metavar="PRED_DIR", help="Folder of 8-bit grey PNG files, probability = value / 255.")
    ],
    truth: Annotated[
        Path,
        typer.Argument(metavar="GT_DIR", help="Folder of PNG or .npy files of the same names: edge or label maps."),
    ],
    dataset: Annotated[
        DatasetName | None, typer.Option(help="Take the usual tolerance: nyud 0.011, pascal 0.0075.")
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option(help="Tolerance as a fraction of the image diagonal, instead of --dataset.")
    ] = None,
    nms: Annotated[NmsChoice, typer.Option(help="Non-maximum suppression of the predictions.")] = NmsChoice.none,
    gt: Annotated[
        GtChoice, typer.Option(help="seism: thinned boundary of GT read as a label map; raw: GT is the edge map.")
    ] = GtChoice.seism,
    thresholds: Annotated[
        str | None,
        typer.Option(help="bsds (.01 to .99), seism (.001, .01 to .99, .999), or a number N for k/(N+1), k = 1 to N."),
    ] = None,
    interpolate: Annotated[bool, typer.Option(help="Take ODS also between thresholds, as BSDS does.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write scores, settings and the curve to this JSON file.")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Leave out true maps that have no prediction.")] = False,
    backend: Annotated[BackendChoice, typer.Option(help="auto uses numba if it is installed.")] = BackendChoice.auto,
) -> None:
    """Score saved boundary predictions: ODS, OIS, AP. Numbers from different settings cannot be compared."""
    with friendly_errors():
        if (dataset is None) == (max_distance is None):
            raise ValueError("Give the tolerance: either --dataset nyud|pascal or --max-distance FRACTION")
        if out is not None:
            _check_out(out)
        report = _evaluate(
            predictions,
            truth,
            max_distance=MAX_DISTANCE[dataset.value] if dataset else max_distance,
            nms=None if nms == NmsChoice.none else nms.value,
            gt=gt.value,
            thresholds=_thresholds(thresholds or ("seism" if nms == NmsChoice.seism else "bsds")),
            interpolate=interpolate,
            jobs=jobs or cores(),
            allow_missing=allow_missing,
            backend=backend.value,
        )
        if out is not None:
            write_whole(out, lambda file: Path(file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8"))
    _show(report)


def _evaluate(
    predictions: Path, truth: Path, *, interpolate: bool, jobs: int, allow_missing: bool, **choices: Any
) -> dict[str, Any]:
    from demt.metrics.boundary.files import BoundarySettings, pair_files
    from demt.metrics.boundary.inputs import as_max_distance
    from demt.metrics.boundary.scores import BoundaryTotals, precision_recall_f
    from demt.metrics.functional.boundary import resolve_backend

    as_max_distance(choices["max_distance"])
    settings = BoundarySettings(**{**choices, "backend": resolve_backend(choices["backend"])})
    pairs = pair_files(predictions, truth, allow_missing=allow_missing)
    totals = BoundaryTotals.zero(settings.thresholds)
    for counts in _counts(pairs, settings, min(jobs, len(pairs))):
        totals.add(counts)
    precision, recall, f = precision_recall_f(totals.matched, totals.predicted, totals.true)
    return {
        "scores": totals.scores(interpolate).to_dict(),
        "settings": {
            "max_distance": settings.max_distance,
            "nms": settings.nms or "none",
            "gt": settings.gt,
            "thresholds": len(settings.thresholds),
            "interpolate": interpolate,
            "images": totals.images,
            "backend": settings.backend,
        },
        "curve": {
            "threshold": list(settings.thresholds),
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f": f.tolist(),
        },
    }


def _counts(pairs: list[tuple[Path, Path]], settings: BoundarySettings, jobs: int) -> Iterator[BoundaryCounts]:
    """Counts of every pair, in any number of processes, with a progress bar on standard error."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    from rich.progress import track

    from demt.metrics.boundary.files import count_files

    def show(results: Iterable[Result]) -> Iterable[Result]:
        return track(results, "Images", total=len(pairs), console=errors)

    if jobs == 1:
        for prediction, truth in show(pairs):
            yield count_files(prediction, truth, settings)
        return
    with ProcessPoolExecutor(jobs, mp_context=_processes()) as pool:
        tasks = [pool.submit(count_files, prediction, truth, settings) for prediction, truth in pairs]
        try:
            for task in show(as_completed(tasks)):
                yield task.result()
        except BrokenProcessPool as error:
            raise OSError("A process was killed, perhaps for lack of memory; try fewer --jobs") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _processes() -> BaseContext:
    """Start processes as forks of one that has only imported the code: a fork of this one, with threads, can hang."""
    import multiprocessing

    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["demt.metrics.boundary.files", "demt.metrics.boundary.numba_kernels"])
    return context


def _thresholds(text: str) -> tuple[float, ...]:
    from demt.metrics.boundary.inputs import BSDS_THRESHOLDS, SEISM_THRESHOLDS

    named = {"bsds": BSDS_THRESHOLDS, "seism": SEISM_THRESHOLDS}
    if text in named:
        return named[text]
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"Expected --thresholds bsds, seism or a number of at least 1, got {text!r}")
    return tuple(k / (int(text) + 1) for k in range(1, int(text) + 1))


def _check_out(out: Path) -> None:
    """Refuse a file that is no earlier report, before the work is done."""
    if not out.absolute().parent.is_dir():
        raise ValueError(f"Expected the folder of --out to exist, {out.absolute().parent} does not")
    if not out.exists():
        return
    try:
        ours = {"scores", "settings", "curve"} <= set(json.loads(out.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError, RecursionError):
        ours = False
    if not ours:
        raise FileExistsError(f"--out {str(out)!r} exists and is not a report of this command; choose another file")


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table

    scores, settings = report["scores"], report["settings"]
    table = Table(title=f"Boundaries of {settings['images']} images")
    for column in ("ODS F", "threshold", "precision", "recall", "OIS F", "AP"):
        table.add_column(column, justify="right")
    table.add_row(*(f"{score:.4f}" for score in scores.values()))
    console.print(table)
    console.print(
        "Settings: " + ", ".join(f"{name}={value}" for name, value in settings.items()), highlight=False, soft_wrap=True
    )
