"""Calibration pictures, bounds and the processor: what must fit before a model is written in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from demt.data.files import PICTURES, is_hidden
from demt.inference.preprocess import preprocess
from demt.models import MultiTaskModel

#: Pictures that a folder must hold: every second one chooses, the others measure what came of it.
MIN_PICTURES = 8
#: The bound of tasks that are not named.
BOUND = 0.02


def calibration_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and those below it, in the order of their names.

    Raises:
        FileNotFoundError, ValueError: if there is no such folder, it cannot be read, or it has too few pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder of calibration pictures at {str(folder)!r}")
    try:
        below = sorted(folder.rglob("*"))
    except OSError as error:
        raise ValueError(f"The folder of calibration pictures {str(folder)!r} cannot be read: {error}") from error
    files = [file for file in below if file.suffix.lower() in PICTURES and not is_hidden(file.relative_to(folder))]
    if len(files) < MIN_PICTURES:
        raise ValueError(
            f"Expected at least {MIN_PICTURES} calibration pictures in {str(folder)!r}, whose names end in one of "
            f"{', '.join(PICTURES)}, got {len(files)}"
        )
    return files


def prepared(model: MultiTaskModel, file: Path, size: tuple[int, int] | None) -> Any:
    """A picture as an array (1, channels, height, width), as `demt.predict` prepares it or of a fixed size."""
    image = preprocess(model, file)
    if size is not None and tuple(image.shape[-2:]) != tuple(size):
        image = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    return image.cpu().numpy()


def check_machine() -> None:
    """Raise `ImportError` or `ValueError` if this machine cannot quantise."""
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError:
        raise ImportError("Quantising needs onnx and onnxruntime: pip install 'demt[onnx]'") from None
    if not cpu_has_int8():
        raise ValueError(
            "This processor has no instructions for products in 8 bits (VNNI): onnxruntime would round sums on it, and "
            "what is measured here would not hold elsewhere; quantise on another machine"
        )


def cpu_has_int8() -> bool:
    """Whether the processor adds up products of 8 bits without loss; yes where this torch does not say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    has = ask() if ask is not None else {"architecture": ""}
    return has.get("architecture") != "x86_64" or any(has.get(name) is True for name in ("avx512_vnni", "avx_vnni"))


def bounds_of(model: MultiTaskModel, bound: float | Mapping[str, float]) -> dict[str, float]:
    """The bound of every task.

    Raises:
        ValueError: for an unknown task, or a bound that is no fraction above 0.
    """
    given = dict(bound) if isinstance(bound, Mapping) else dict.fromkeys(model.tasks, bound)
    if unknown := [name for name in given if name not in model.tasks]:
        raise ValueError(f"The bound names the task {unknown[0]!r}, and the model has {', '.join(model.tasks)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"Expected `bound` of {name} to be a fraction above 0, at most 1, got {value!r}")
    return {name: float(given.get(name, BOUND)) for name in model.tasks}


def parse_bound(text: str) -> float | dict[str, float]:
    """A bound from the command line: ``"2%"`` or ``"0.02"`` for all tasks, ``"depth=3%,semseg=2%"`` for some.

    Raises:
        ValueError: for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and "=" not in parts[0]:
        return _fraction(parts[0], text)
    pairs = [part.partition("=") for part in parts]
    if any(not name or not sign for name, sign, _ in pairs):
        raise ValueError(f"Expected --bound as 2% or as TASK=2%,TASK=3%, got {text!r}")
    return {name.strip(): _fraction(value, text) for name, _, value in pairs}


def _fraction(text: str, whole: str) -> float:
    try:
        return float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        raise ValueError(f"Expected --bound as 2% or as TASK=2%,TASK=3%, got {whole!r}") from None
