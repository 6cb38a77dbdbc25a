"""Writing a model as a file, and comparing what the file computes with the model."""

from __future__ import annotations

import copy
import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from demt.export import formats
from demt.export.capture import MIN_SIZE, ExportError, Outputs, capture, first_line
from demt.files import write_whole
from demt.inference.fuse import FusedModel, fuse
from demt.models import MultiTaskModel
from demt.tasks import Task

__all__ = ["ExportError", "Exported", "describe", "export"]

Format = Literal["onnx", "pt2", "aoti"]

#: Largest difference from the model that a file may have, in standard deviations of a task's logits: 0.001.
TOLERANCE = 1e-3
#: The same of the mean difference, for files with weights in float16.
FLOAT16_TOLERANCE = 2e-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path, format: The file and its format.
        error: Largest difference from the model, over tasks and two batches of other shapes than the graph was captured
            with, in standard deviations of the task's logits; with `float16` the largest of the tasks' means; None if
            the file was not run.
    """

    path: Path
    format: Format
    error: float | None


def export(
    model: MultiTaskModel,
    path: str | PathLike[str],
    *,
    format: Format | None = None,
    predictions: bool = False,
    size: tuple[int, int] | None = None,
    opset: int = 18,
    float16: bool = False,
) -> Exported:
    """Write a model as a file that runs without this package, and compare what the file computes with the model.

    The file takes ``images`` (batch, in_chans, height, width), float32, normalised with the mean and standard deviation
    that it holds as metadata, and gives one output per task, by its name. Batch, height and width are open, the latter
    two from 33 pixels.

    Args:
        model: In float32; left as it is. The file has its weights as they are in eval mode.
        path: Ends in ``.onnx`` or ``.pt2``; replaced only by a whole file that passed the comparison.
        format: ``"onnx"`` (needs ``demt[onnx]``); ``"pt2"``, a program for `torch.export.load`; ``"aoti"``, a package
            compiled for this kind of machine, for `torch._inductor.aoti_load_package` or C++ (needs a C++ compiler).
            By default onnx or pt2 by the path's ending.
        predictions: Outputs are the tasks' predictions (see `Task.predict`) instead of logits.
        size: Fixes height and width.
        opset: ONNX operator set, 18 or newer.
        float16: Of ONNX: weights are stored in float16, which halves the file, and computed with in float32. Single
            pixels may then differ more, so that the mean difference is compared.

    Returns:
        The path, the format and how far the file's outputs are from the model's. ONNX files are run with onnxruntime;
        where it is not installed, `error` is None.

    Raises:
        ValueError, FileNotFoundError: for arguments that do not fit.
        ImportError: if a package is missing, naming the extra to install, or torch is too old.
        ExportError: if the model cannot be written in this format, or the file differs from it.

    Example:
        >>> import demt
        >>> from demt.export import export
        >>> export(demt.create_model("degmix_nano"), "model.txt")
        Traceback (most recent call last):
        ValueError: Expected `path` to end in .onnx or .pt2, or `format` to be given, got 'model.txt'
    """
    target = Path(path)
    format = _check(model, target, format, size, opset, float16)
    formats.check_available(format)
    network = Outputs(copy.deepcopy(model), predictions).eval().requires_grad_(False)
    if format == "onnx":
        network = network.cpu()
    program = capture(Outputs(_fused(network.model), predictions), size)
    _largest_error(network, formats.runner(program), size)
    metadata = describe(model, predictions, size)
    errors: list[float | None] = []

    def write(temporary: str) -> None:
        run = formats.write(program, Path(temporary), format, metadata, opset, float16)
        errors.append(None if run is None else _largest_error(network, run, size, float16))

    write_whole(target, write)
    return Exported(path=target, format=format, error=errors[0])


def _fused(model: MultiTaskModel) -> MultiTaskModel:
    """With fewer operations, where that gives the same numbers."""
    try:
        return model if isinstance(model, FusedModel) else fuse(model)
    except ValueError:
        return model


def describe(model: MultiTaskModel, predictions: bool, size: tuple[int, int] | None) -> dict[str, Any]:
    """What a file says about itself, as JSON values."""
    import demt

    fields = ("name", "channels", "activation", "unit", "classes", "palette")
    return {
        "demt_version": demt.__version__,
        "family": model.config.family,
        "backbone": model.config.backbone,
        "mean": model.pretrained_cfg.mean,
        "std": model.pretrained_cfg.std,
        "input_size": model.pretrained_cfg.input_size,
        "max_size": model.pretrained_cfg.max_size,
        "fixed_size": size,
        "min_size": None if size else MIN_SIZE,
        "outputs": "predictions" if predictions else "logits",
        "tasks": [{field: getattr(task, field) for field in fields} for task in model.tasks.values()],
    }


def _check(
    model: MultiTaskModel,
    path: Path,
    format: Format | None,
    size: tuple[int, int] | None,
    opset: int,
    float16: bool,
) -> Format:
    if not isinstance(model, MultiTaskModel):
        raise ValueError(f"Expected `model` to be a demt model, got {type(model).__name__}; see demt.create_model")
    if (dtype := next(model.head.parameters()).dtype) != torch.float32:
        raise ValueError(f"Expected `model` in float32, got {dtype}; convert it with model.float()")
    by_ending: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
    if format is None and path.suffix not in by_ending:
        raise ValueError(f"Expected `path` to end in .onnx or .pt2, or `format` to be given, got {path.name!r}")
    format = format or by_ending[path.suffix]
    if format not in get_args(Format):
        raise ValueError(f"Expected `format` to be one of {get_args(Format)}, got {format!r}")
    if path.suffix != (ending := ".onnx" if format == "onnx" else ".pt2"):
        raise ValueError(f"Expected `path` to end in {ending} for format {format!r}, got {path.name!r}")
    if float16 and format != "onnx":
        raise ValueError(f"Expected `format` 'onnx' with `float16`, got {format!r}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"Expected `path` to be a file in a folder that exists, got {str(path)!r}")
    if size is not None and (
        len(size) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in size)
    ):
        raise ValueError(f"Expected `size` to be (height, width), integers >= 1, got {size!r}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < 18:
        raise ValueError(f"Expected `opset` to be an integer >= 18, got {opset!r}")
    return format


def _largest_error(network: Outputs, run: formats.Runner, size: tuple[int, int] | None, float16: bool = False) -> float:
    """Compare with the model on two batches; one of them with a size that fits strides and one that does not."""
    like = next(network.model.head.parameters())
    generator = torch.Generator().manual_seed(0)
    tolerance = FLOAT16_TOLERANCE if float16 else TOLERANCE
    errors = []
    for batch, height, width in ((1, 64, 96), (3, 97, 70)):
        shape = (batch, network.model.config.in_chans, *(size or (height, width)))
        images = torch.randn(shape, generator=generator).to(like.device)
        with torch.no_grad():
            logits = network.model(images)
        try:
            outputs = run(images)
        except Exception as failure:
            hint = "" if size else "; fixing height and width with `size` may help"
            message = f"What was captured does not run on images {shape}{hint}: {first_line(failure)}"
            raise ExportError(message) from failure
        if list(outputs) != list(logits):
            raise ExportError(f"The file has the outputs {list(outputs)}, the model the tasks {list(logits)}")
        for name, task in network.model.tasks.items():
            error = _error(task, logits[name], outputs[name].to(like.device), network.predictions, float16)
            if not error <= tolerance:
                raise ExportError(
                    f"The file's {name} would differ from the model's by {error:.2g} of its standard deviation on "
                    f"images {shape}, more than {tolerance}; it was not kept"
                )
            errors.append(error)
    return max(errors)


def _error(task: Task, logits: Tensor, output: Tensor, prediction: bool, mean: bool) -> float:
    """Largest or mean difference in standard deviations of the logits; for class ids, by how much the best logit is
    larger."""
    reduce = torch.mean if mean else torch.max
    if not prediction or task.activation != "argmax":
        logits = task.predict(logits) if prediction else logits
        if output.shape != logits.shape:
            raise ExportError(f"The file's {task.name} has shape {tuple(output.shape)}, not {tuple(logits.shape)}")
        return _scaled(reduce((output - logits).abs()), logits)
    return _scaled(reduce(logits.amax(1) - logits.gather(1, output[:, None])[:, 0]), logits)


def _scaled(difference: Tensor, values: Tensor) -> float:
    return (difference / values.std().clamp_min(1e-6)).item()
