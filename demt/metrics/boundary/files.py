"""Boundary counts of saved predictions: 8-bit PNG files against a folder of true maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demt.metrics.boundary.nms import EdgeNms
from demt.metrics.functional.boundary import (
    Backend,
    BoundaryCounts,
    NmsName,
    TargetMode,
    boundary_counts,
    boundary_target,
)

#: The largest pictures that are read; larger ones are refused before memory is spent.
MAX_PIXELS = 2**27


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundarySettings:
    """What a number depends on; see `boundary_counts` and, for `gt`, `boundary_target`."""

    max_distance: float
    thresholds: tuple[float, ...]
    nms: NmsName | EdgeNms | None
    gt: TargetMode
    backend: Backend


def pair_files(predictions: Path, truth: Path, *, allow_missing: bool = False) -> list[tuple[Path, Path]]:
    """Pairs (prediction, true map) of one file stem, sorted by it; predictions without a true map are left out.

    Raises:
        ValueError: for a missing or empty folder, two true maps of one stem, no common stem, or, unless
            `allow_missing`, true maps without a prediction.
    """
    found = _by_stem(predictions, (".png",))
    wanted = _by_stem(truth, (".png", ".npy"))
    missing = sorted(set(wanted) - set(found))
    if len(missing) == len(wanted):
        raise ValueError(
            f"No file of {predictions} has the name of a file of {truth}: "
            f"predictions such as {min(found)!r}, true maps such as {min(wanted)!r}"
        )
    if missing and not allow_missing:
        names = ", ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
        raise ValueError(
            f"{len(missing)} of {len(wanted)} true maps have no prediction in {predictions}: {names}. "
            "Allow missing predictions to leave these images out of the score"
        )
    return [(found[stem], wanted[stem]) for stem in sorted(set(wanted) & set(found))]


def count_files(prediction: Path, truth: Path, settings: BoundarySettings) -> BoundaryCounts:
    """Counts of one image. Raises `ValueError` naming the file for what cannot be read or does not fit."""
    probability = read_prediction(prediction)
    try:
        target = boundary_target(read_truth(truth, settings.gt), settings.gt)
    except ValueError as error:
        raise ValueError(f"{truth}: {error}") from error
    if probability.shape != target.shape:
        raise ValueError(
            f"{prediction}: expected the size of {truth}, {target.shape} as (height, width), got {probability.shape}; "
            "save predictions at the size of the true maps, padding cropped away"
        )
    return boundary_counts(
        probability,
        target,
        max_distance=settings.max_distance,
        thresholds=settings.thresholds,
        nms=settings.nms,
        backend=settings.backend,
    )


def read_prediction(path: Path) -> NDArray[np.uint8]:
    """An 8-bit grey PNG (H, W)."""
    mode, pixels = _read_picture(path)
    if mode not in ("L", "1"):
        raise ValueError(f"{path}: expected an 8-bit grey picture of probabilities, got mode {mode!r}")
    return pixels.astype(np.uint8) * np.uint8(255) if mode == "1" else pixels


def read_truth(path: Path, gt: TargetMode) -> NDArray[Any]:
    """A true map (H, W) from a PNG or .npy; with ``gt="raw"`` a map of 0 and 255 alone becomes one of 0 and 1."""
    if path.suffix.lower() == ".npy":
        try:
            # Mapped, as NumPy otherwise allocates what a header says before it looks how much there is.
            mapped = np.load(path, allow_pickle=False, mmap_mode="r")
            pixels = np.array(mapped) if isinstance(mapped, np.ndarray) else np.empty(())
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"cannot be read as an array ({error})") from error
        if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[2]):
            pixels = pixels.squeeze(0 if pixels.shape[0] == 1 else 2)
    else:
        mode, pixels = _read_picture(path)
        if pixels.ndim != 2:
            raise ValueError(f"expected a picture of one channel, got mode {mode!r}")
    if gt == "raw" and pixels.dtype != np.bool_ and (pixels == 255).any() and not (pixels == 1).any():
        return np.where(pixels == 255, 1, pixels)
    return pixels


def _read_picture(path: Path) -> tuple[str, NDArray[Any]]:
    try:
        # By content: Pillow would start Ghostscript for a PostScript file of this name.
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels, at most {MAX_PIXELS} are read")
            return picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"Expected a folder, but {folder} is not one")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and path.is_file():
            if path.stem in files:
                raise ValueError(f"Two files of the same name in {folder}: {files[path.stem].name} and {path.name}")
            files[path.stem] = path
    if not files:
        raise ValueError(f"No {' or '.join(suffixes)} file in {folder}")
    return files
