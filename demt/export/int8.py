"""Models in 8 bits: ONNX files quantised by onnxruntime's own tool, as far as no task loses more than it may."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from demt.export.calibration import bounds_of, calibration_pictures, check_machine, prepared
from demt.export.capture import ExportError
from demt.export.choose import Judge, choose
from demt.export.quantize import QuantizableFile
from demt.export.write import export
from demt.files import write_bytes
from demt.models import MultiTaskModel

__all__ = ["Quantized", "calibration_pictures", "export_int8"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written.

    Attributes:
        path: The file.
        differences: Of each task's predictions from the float32 file's (see `demt.export.agreement`), on pictures that
            had no part in it: neither in the ranges of values nor in the choice of layers.
        everything: The same with every layer in 8 bits that can be.
        bounds: What they may be.
        layers: Layers that compute in 8 bits, and layers with weights in all.
        coordinates: Layers that give offsets: always float32.
        size, float_size: Bytes of the file, and of the float32 file.
        pictures: How many chose, how many measured.
    """

    path: Path
    differences: Mapping[str, float]
    everything: Mapping[str, float]
    bounds: Mapping[str, float]
    layers: tuple[int, int]
    coordinates: int
    size: int
    float_size: int
    pictures: tuple[int, int]


def export_int8(
    model: MultiTaskModel,
    path: str | PathLike[str],
    calibrate: str | PathLike[str],
    *,
    bound: float | Mapping[str, float] = 0.02,
    predictions: bool = False,
    size: tuple[int, int] | None = None,
    opset: int = 18,
) -> Quantized:
    """Write a model as ONNX with weights and products in 8 bits (QDQ), and compute in float32 what hurts a task.

    One half of the pictures, prepared by `demt.preprocess`, gives the ranges of values and chooses the layers: the
    groups of neighbours that move a task's predictions most, against its bound, compute in float32, with weights that
    are stored in 16 bits. The other half measures what came of it. Layers that give offsets are float32 from the start.

    Args:
        model: In float32; left as it is.
        path: Ends in ``.onnx``; replaced only by a whole file that keeps the bounds.
        calibrate: A folder of at least 8 pictures as the model will see them.
        bound: How far each task may be from float32, as a fraction (see `demt.export.agreement.difference`); or bounds
            by task, 0.02 for those that are not named.
        predictions, size, opset: See `demt.export.export`.

    Raises:
        ValueError, FileNotFoundError: for arguments that do not fit, a folder with too few pictures or one that cannot
            be read, or a processor without instructions for products in 8 bits.
        ImportError: if a package is missing.
        ExportError: if no layer can be in 8 bits within the bounds, the pictures that measure do not keep them, or the
            model cannot be exported.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise ValueError(f"Expected `path` to end in .onnx, got {str(path)!r}")
    bounds = bounds_of(model, bound)
    files = calibration_pictures(Path(calibrate))
    check_machine()
    images = [prepared(model, file, size) for file in files]
    choosing, held = images[::2], images[1::2]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "float32.onnx"
        export(model, whole, predictions=predictions, size=size, opset=opset)
        float_size = whole.stat().st_size
        file = QuantizableFile(whole, choosing)
        chooser, judge = (Judge(model.tasks, file.contents, each, predictions) for each in (choosing, held))
        layers = choose(file.layers, lambda names: chooser.measure(file.quantized(names)), bounds)
        contents = file.quantized(layers)
        found = judge.measure(contents)
        everything = found if layers == file.layers else judge.measure(file.quantized(file.layers))
    _check_held(found, bounds)
    write_bytes(target, contents)
    return Quantized(
        path=target,
        differences=found,
        everything=everything,
        bounds=bounds,
        layers=(len(layers), file.total),
        coordinates=len(file.coordinates),
        size=len(contents),
        float_size=float_size,
        pictures=(len(choosing), len(held)),
    )


def _check_held(found: Mapping[str, float], bounds: Mapping[str, float]) -> None:
    hurt = max(found, key=lambda name: found[name] / bounds[name])
    if found[hurt] > bounds[hurt]:
        raise ExportError(
            f"On the pictures that did not choose the layers {hurt} differs from float32 by {found[hurt]:.1%}, "
            f"more than {bounds[hurt]:.1%}, though it kept the bound on those that did; give more pictures, or allow "
            "more; nothing was written"
        )
