"""One model in all forms that it runs in: time in turns, size, and how far each task is from float32."""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from demt.data.images import ImageLike
from demt.data.rooms import SyntheticRooms
from demt.export.agreement import differences
from demt.export.calibration import calibration_pictures
from demt.export.capture import first_line
from demt.export.formats import Runner, onnx_runner, openvino_runner
from demt.export.half import store_float16
from demt.export.int8 import export_int8
from demt.export.write import export
from demt.inference.forward import autocast, check_precision, not_finite
from demt.inference.preprocess import preprocess
from demt.models import MultiTaskModel
from demt.ops.runtime import has_cpp_compiler

TORCH = "torch"
#: Pictures by which agreement is measured, at most.
PICTURES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """A form of a model.

    Attributes:
        name: What it is.
        seconds, cpu_seconds: Median of an image's time by the clock, and of the processor time of all threads; the
            latter hardly depends on other work that the machine has.
        bytes: Of its file; of what runs in torch, of its weights.
        differences: Of each task's predictions from those of torch in float32 (see `demt.export.agreement`).
        missing: Why it is not here, in words; the other fields are then None.
    """

    name: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    bytes: int | None = None
    differences: Mapping[str, float] | None = None
    missing: str | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A form that is ready to run on images (1, C, H, W), and the bytes of its file or weights."""

    run: Runner
    bytes: int


def compare(
    model: MultiTaskModel,
    folder: str | PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    rounds: int = 7,
    calibrate: str | PathLike[str] | None = None,
    bound: float | Mapping[str, float] = 0.02,
) -> list[Form]:
    """Measure a model on a CPU in all forms: in torch, in bf16, compiled, as ONNX, in 8 bits, in OpenVINO.

    Args:
        model: In float32, in eval mode.
        folder: An existing folder for the files.
        size: Height and width that all images have; by default those of training.
        threads: Of the processor.
        rounds: Each form runs once a round, in turns, after a first round that does not count.
        calibrate: A folder of pictures, for the forms in 8 bits; every second one, up to `PICTURES`, measures
            agreement. Without it rooms do, and there are no forms in 8 bits.
        bound: See `demt.export.int8.export_int8`.

    Returns:
        A `Form` of each, torch in float32 first, with those that are missing, and why.

    Raises:
        ValueError, FileNotFoundError: for a folder of too few pictures, or rooms for a model of other channels.
    """
    size = size or (model.pretrained_cfg.input_size[1], model.pretrained_cfg.input_size[2])
    if calibrate is None:
        rooms = SyntheticRooms(size, length=4, seed=5)
        images = [_fitted(model, rooms[index]["image"], size) for index in range(len(rooms))]
    else:
        images = [_fitted(model, file, size) for file in calibration_pictures(Path(calibrate))[1::2][:PICTURES]]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loaded = load_forms(model, Path(folder), threads=threads, calibrate=calibrate, bound=bound)
        return measure(model, loaded, images, rounds)
    finally:
        torch.set_num_threads(before)


def _fitted(model: MultiTaskModel, image: ImageLike, size: tuple[int, int]) -> Tensor:
    return F.interpolate(preprocess(model, image, max_size=max(size)), size, mode="bilinear", antialias=True)


def load_forms(
    model: MultiTaskModel,
    folder: Path,
    *,
    threads: int = 1,
    calibrate: str | PathLike[str] | None = None,
    bound: float | Mapping[str, float] = 0.02,
    without: Collection[str] = (),
) -> dict[str, Loaded | str]:
    """All forms of a model, by name; in place of one that cannot be had here, the reason.

    Files are written to the folder; those that are there already are taken as they are. What is in `without` is left
    out, and the reason says so.
    """
    whole, half, eight = (folder / f"{name}.onnx" for name in ("float32", "float16", "int8"))

    def onnx() -> Path:
        if not whole.exists():
            export(model, whole)
        return whole

    def onnx_float16() -> Path:
        if not half.exists():
            import onnx_ir

            halved = onnx_ir.load(onnx())
            store_float16(halved)
            onnx_ir.save(halved, half)
        return half

    def onnx_int8() -> Path:
        if calibrate is None:
            raise ValueError("needs pictures: --calibrate FOLDER")
        if not eight.exists():
            export_int8(model, eight, calibrate, bound=bound)
        return eight

    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    ways: dict[str, Callable[[], Loaded]] = {
        TORCH: lambda: Loaded(model, weights),
        "torch, bf16": lambda: Loaded(_in_bf16(model), weights),
        "torch.compile": lambda: Loaded(_compiled(model), weights),
        "torch.compile, bf16": lambda: Loaded(_in_bf16(_compiled(model)), weights),
        "ONNX": lambda: _onnxruntime(onnx(), threads),
        "ONNX, float16 weights": lambda: _onnxruntime(onnx_float16(), threads),
        "ONNX, int8": lambda: _onnxruntime(onnx_int8(), threads),
        "OpenVINO": lambda: _openvino(onnx, threads),
        "OpenVINO, bf16": lambda: _openvino(onnx, threads, "bf16"),
        "OpenVINO, int8": lambda: _openvino(onnx_int8, threads),
        "OpenVINO, int8 and bf16": lambda: _openvino(onnx_int8, threads, "bf16"),
    }
    found: dict[str, Loaded | str] = {}
    for name, load in ways.items():
        try:
            found[name] = "left out of this run" if name in without else load()
        except (ImportError, ValueError) as error:
            found[name] = " ".join(str(error).split())
        except RuntimeError as error:
            found[name] = first_line(error)
    return found


def _in_bf16(model: Runner) -> Runner:
    context = autocast(torch.device("cpu"), "bf16")

    def run(images: Tensor) -> dict[str, Tensor]:
        with context:
            return model(images)

    return run


def _compiled(model: MultiTaskModel) -> Runner:
    if not has_cpp_compiler():
        raise ValueError("needs a C++ compiler: install g++ or clang++")
    return torch.compile(model)  # type: ignore[return-value]


def _onnxruntime(path: Path, threads: int) -> Loaded:
    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError("needs onnxruntime: pip install 'demt[onnx]'")
    return Loaded(onnx_runner(path, threads), path.stat().st_size)


def _openvino(write: Callable[[], Path], threads: int, precision: str = "fp32") -> Loaded:
    check_precision(torch.device("cpu"), precision)
    if importlib.util.find_spec("openvino") is None:
        raise ImportError("needs openvino: pip install openvino")
    path = write()
    return Loaded(openvino_runner(path, threads, precision), path.stat().st_size)


@torch.no_grad()
def measure(
    model: MultiTaskModel,
    loaded: Mapping[str, Loaded | str],
    images: Sequence[Tensor],
    rounds: int,
) -> list[Form]:
    """Time the forms in turns on the first image, and compare what they say of all with torch in float32.

    Raises:
        ValueError: if torch in float32 fails itself, or gives NaN or infinite values.
    """
    ready = {name: form for name, form in loaded.items() if isinstance(form, Loaded)}
    missing = {name: form for name, form in loaded.items() if isinstance(form, str)}
    said: dict[str, Sequence[Mapping[str, Tensor]]] = {}
    for name, form in list(ready.items()):
        try:
            said[name] = [predictions(model, form.run, image) for image in images]
        except Exception as error:
            # What torch.compile and runtimes raise when they first run has no common class.
            missing[name] = first_line(error)
            del ready[name]
    if TORCH not in said:
        raise ValueError(f"Torch in float32, with which all forms are compared, failed: {missing[TORCH]}")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, form in ready.items():
            clock, processor = time.perf_counter(), time.process_time()
            form.run(images[0])
            times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    medians = {name: [statistics.median(each) for each in zip(*pairs)] for name, pairs in times.items()}
    return [
        Form(
            name=name,
            seconds=medians[name][0],
            cpu_seconds=medians[name][1],
            bytes=ready[name].bytes,
            differences=differences(model.tasks, said[TORCH], said[name]),
        )
        if name in ready
        else Form(name=name, missing=missing[name])
        for name in loaded
    ]


def predictions(model: MultiTaskModel, run: Runner, image: Tensor) -> dict[str, Tensor]:
    """What a form says of an image (1, C, H, W), by task (see `Task.predict`).

    Raises:
        ValueError: for logits that are not finite, of which class ids could still be made.
    """
    logits = run(image)
    if broken := not_finite(logits):
        raise ValueError(f"gives NaN or infinite values here, of {', '.join(broken)}: do not use it on this machine")
    return {name: model.tasks[name].predict(maps.float()) for name, maps in logits.items()}


def as_json(forms: Sequence[Form]) -> list[dict[str, Any]]:
    """Forms as JSON values."""
    return [dataclasses.asdict(form) for form in forms]
