"""Models in 8 bits: ONNX files quantised by onnxruntime's own tool, as far as no task loses more than it may."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demt.data.files import PICTURES, is_hidden
from demt.export.agreement import differences
from demt.export.capture import ExportError
from demt.export.write import export
from demt.files import write_bytes
from demt.inference.preprocess import preprocess
from demt.models import MultiTaskModel

#: Pictures that a folder must hold: every second one gives the ranges of values, the others measure what came of it.
MIN_PICTURES = 8
#: Neighbouring layers that are tried together.
GROUPS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written.

    Attributes:
        path: The file.
        differences: Of each task's predictions from the float32 file's (see `demt.export.agreement`), on pictures that
            did not calibrate.
        everything: The same with every layer in 8 bits but those of `coordinates`, before any was put back.
        bounds: What they may be.
        layers: Layers in 8 bits, and layers with weights in all.
        coordinates: Layers that make offsets and coordinates: always float32.
        size, float_size: Bytes of the file, and of the float32 file.
        pictures: How many calibrated, how many measured.
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
    opset: int = 20,
) -> Quantized:
    """Write a model as ONNX with weights and products in 8 bits (QDQ), and keep in float32 what hurts a task.

    Ranges of values come from half of the pictures, prepared by `demt.preprocess`. Layers that lead to offsets and
    coordinates stay float32. The others are tried a group of neighbours at a time; the groups that move a task's
    predictions most, against its bound, stay float32 too: as few as keep every task within its bound on the other half
    of the pictures.

    Args:
        model: In float32; left as it is.
        path: Ends in ``.onnx``; replaced only by a whole file that keeps the bounds.
        calibrate: A folder of pictures as the model will see them, at least `MIN_PICTURES`.
        bound: How far each task may be from float32, as a fraction (see `demt.export.agreement.difference`); or bounds
            by task, 0.02 for those that are not named.
        predictions, size, opset: See `demt.export.export`.

    Raises:
        ValueError, FileNotFoundError: for arguments that do not fit, a folder with too few pictures or one that cannot
            be read, or a processor without instructions for products in 8 bits.
        ImportError: if a package is missing.
        ExportError: if no layer can be in 8 bits within the bounds, or the model cannot be exported.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise ValueError(f"Expected `path` to end in .onnx, got {str(path)!r}")
    bounds = _bounds(model, bound)
    files = calibration_pictures(Path(calibrate))
    _check_machine()
    tuned, held = files[::2], files[1::2]
    images = {file: _image(model, file, size) for file in files}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "float32.onnx"
        export(model, whole, predictions=predictions, size=size, opset=opset)
        search = _Search(model, whole, [images[file] for file in tuned], [images[file] for file in held], predictions)
        everything = search.measure(search.layers)
        kept, found = search.within(bounds, everything)
        written = search.quantized(kept)
        float_size = whole.stat().st_size
    write_bytes(target, written)
    return Quantized(
        path=target,
        differences=found,
        everything=everything,
        bounds=bounds,
        layers=(len(kept), search.total),
        coordinates=len(search.coordinates),
        size=len(written),
        float_size=float_size,
        pictures=(len(tuned), len(held)),
    )


def _bounds(model: MultiTaskModel, bound: float | Mapping[str, float]) -> dict[str, float]:
    given = dict(bound) if isinstance(bound, Mapping) else dict.fromkeys(model.tasks, bound)
    if unknown := [name for name in given if name not in model.tasks]:
        raise ValueError(f"The bound names the task {unknown[0]!r}, and the model has {', '.join(model.tasks)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"Expected `bound` of {name} to be a fraction above 0, at most 1, got {value!r}")
    return {name: float(given.get(name, 0.02)) for name in model.tasks}


def calibration_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, in the order of their names, or an error if they are too few."""
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


def _check_machine() -> None:
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


def _image(model: MultiTaskModel, file: Path, size: tuple[int, int] | None) -> Any:
    image = preprocess(model, file)
    if size is not None and tuple(image.shape[-2:]) != tuple(size):
        image = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    return image.cpu().numpy()


class _Search:
    """Which layers of an ONNX file can be in 8 bits."""

    def __init__(
        self, model: MultiTaskModel, path: Path, tuning: Sequence[Any], held: Sequence[Any], predictions: bool
    ) -> None:
        import onnx

        self.tasks, self.predictions, self.held = model.tasks, predictions, held
        self.proto = onnx.load(path)
        graph = self.proto.graph
        for number, node in enumerate(graph.node):
            node.name = node.name or f"node_{number}"
        constants = {each.name for each in graph.initializer}
        weighted = [n.name for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in constants]
        self.total = len(weighted)
        self.coordinates = _before_coordinates(graph, set(weighted))
        self.layers = [name for name in weighted if name not in self.coordinates]
        self.ranges = self._calibrate(tuning, path.parent)
        self.expected = self._run(self.proto.SerializeToString())

    def within(
        self, bounds: Mapping[str, float], everything: Mapping[str, float]
    ) -> tuple[list[str], dict[str, float]]:
        """The layers to have in 8 bits, and the differences with them."""

        def worst(found: Mapping[str, float]) -> float:
            return max(value / bounds[name] for name, value in found.items())

        if worst(everything) <= 1:
            return self.layers, dict(everything)
        length = max(-(-len(self.layers) // GROUPS), 1)
        groups = [self.layers[start : start + length] for start in range(0, len(self.layers), length)]
        # From the group that hurts least: the most of them that keep all bounds together.
        groups.sort(key=lambda group: worst(self.measure(group)))
        best: tuple[list[str], dict[str, float]] | None = None
        low, high = 1, len(groups)
        while low < high:
            count = (low + high) // 2
            layers = [name for group in groups[:count] for name in group]
            found = self.measure(layers)
            if worst(found) <= 1:
                best, low = (layers, found), count + 1
            else:
                high = count
        if best is None:
            hurt = max(everything, key=lambda name: everything[name] / bounds[name])
            raise ExportError(
                f"No layers can be in 8 bits within the bound: with all of them {hurt} differs from float32 by "
                f"{everything[hurt]:.1%}, more than {bounds[hurt]:.1%}; allow more, or take pictures "
                "more like those the model was trained on; nothing was written"
            )
        return best

    def measure(self, layers: Sequence[str]) -> dict[str, float]:
        """How far each task is from float32 with these layers in 8 bits, on the pictures that did not calibrate."""
        return differences(self.tasks, self.expected, self._run(self.quantized(layers)))

    def quantized(self, layers: Sequence[str]) -> bytes:
        """The file with these layers in 8 bits."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        quantizer = QDQQuantizer(
            copy.deepcopy(self.proto),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=list(layers),
            nodes_to_exclude=[],
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            extra_options={},
        )
        quantizer.quantize_model()
        contents: bytes = quantizer.model.model.SerializeToString()
        return contents

    def _calibrate(self, images: Iterable[Any], folder: Path) -> Any:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        named = folder / "named.onnx"
        named.write_bytes(self.proto.SerializeToString())
        calibrator = create_calibrator(
            named,
            ["Conv", "Gemm", "MatMul"],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(_Reader(images))
        return calibrator.compute_data()

    def _run(self, contents: bytes) -> list[dict[str, Tensor]]:
        import onnxruntime

        session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        results = []
        for image in self.held:
            outputs = dict(zip(names, map(torch.from_numpy, session.run(None, {"images": image}))))
            if not self.predictions:
                outputs = {name: self.tasks[name].predict(maps) for name, maps in outputs.items()}
            results.append(outputs)
        return results


class _Reader:
    """What onnxruntime's calibration reads from."""

    def __init__(self, images: Iterable[Any]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        return None if image is None else {"images": image}


def _before_coordinates(graph: Any, weighted: set[str]) -> set[str]:
    """Layers that make the grids that `GridSample` samples at: the last layer before it and, where that is an offset
    convolution over a small map of coordinates (18 channels), the layer that makes the map."""
    makers = {output: node for node in graph.node for output in node.output}
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    found: set[str] = set()
    todo = [(name, 2) for node in graph.node if node.op_type == "GridSample" for name in node.input[1:2]]
    seen = set()
    while todo:
        name, layers = todo.pop()
        node = makers.get(name)
        if node is None or (name, layers) in seen or not layers:
            continue
        seen.add((name, layers))
        if node.name in weighted:
            if layers == 1 and shapes[node.input[1]][0] != 18:
                continue
            found.add(node.name)
            todo.append((node.input[0], layers - 1))
        else:
            todo += [(each, layers) for each in node.input if each]
    return found


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
