"""An ONNX file some of whose layers compute in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from demt.export.biases import input_means, with_corrected_biases
from demt.export.half import store_float16

#: Operators with weights that onnxruntime has a kernel in 8 bits for.
_OPERATORS = ("Conv", "Gemm", "MatMul")
#: Activations that become part of a convolution in 8 bits: without them its range would be that of what they cut off.
_ACTIVATIONS = ("Clip", "Relu")


class QuantizableFile:
    """An ONNX file in float32, with the ranges that its values take.

    Args:
        path: The file.
        images: What goes through it, to see the ranges: arrays (batch, channels, height, width).

    Attributes:
        total: Number of layers with weights.
        coordinates: Names of the layers that give offsets: float32, as 256 steps across a map are too few.
        layers: Names of those that can compute in 8 bits.
        contents: The file, whose nodes all have names.
    """

    def __init__(self, path: Path, images: Iterable[Any]) -> None:
        import onnx

        self.proto = onnx.load(path)
        graph = self.proto.graph
        for number, node in enumerate(graph.node):
            node.name = node.name or f"node_{number}"
        constants = {each.name: each for each in graph.initializer}
        weighted = {n.name: n for n in graph.node if n.op_type in _OPERATORS and n.input[1] in constants}
        self.total = len(weighted)
        self.coordinates = before_coordinates(graph, set(weighted))
        self._stored = [name for name in weighted if name not in self.coordinates]
        # Stacks of matrices, one a head, have no kernel with a scale for each channel.
        self.layers = [name for name in self._stored if len(constants[weighted[name].input[1]].dims) in (2, 4)]
        after = {node.input[0]: node.name for node in graph.node if node.op_type in _ACTIVATIONS}
        self._activations = {
            name: after[weighted[name].output[0]] for name in self.layers if weighted[name].output[0] in after
        }
        self.contents: bytes = self.proto.SerializeToString()
        images = list(images)
        self._means = input_means(self.proto, self.layers, images)
        self._ranges = self._calibrate(images, path.parent)

    def quantized(self, layers: Sequence[str]) -> bytes:
        """The file with these layers in 8 bits ("QDQ"): weights int8, a scale for each channel; inputs uint8.

        The other layers, but those of coordinates, have weights of 16 bits, and compute in float32.
        """
        import onnx_ir as ir
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        quantizer = QDQQuantizer(
            with_corrected_biases(self.proto, set(layers), self._means),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[*layers, *(self._activations[name] for name in layers if name in self._activations)],
            nodes_to_exclude=[],
            op_types_to_quantize=[*_OPERATORS, *_ACTIVATIONS],
            # Products of matrices can be given out as they are; convolutions in 8 bits cannot.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        model = ir.from_proto(quantizer.model.model)
        left = set(self._stored).difference(layers)
        store_float16(model, {node.inputs[1].name for node in model.graph if node.name in left})
        proto = ir.to_proto(model)
        del proto.graph.value_info[:]  # shapes between the layers, which runtimes find out themselves
        contents: bytes = proto.SerializeToString()
        return contents

    def _calibrate(self, images: Iterable[Any], folder: Path) -> Any:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        named = folder / "named.onnx"
        named.write_bytes(self.contents)
        calibrator = create_calibrator(
            named,
            [*_OPERATORS, *_ACTIVATIONS],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        calibrator.collect_data(_Reader(images))
        return calibrator.compute_data()


class _Reader:
    """What onnxruntime's calibration reads from."""

    def __init__(self, images: Iterable[Any]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        return None if image is None else {"images": image}


def before_coordinates(graph: Any, weighted: set[str]) -> set[str]:
    """Layers that give the grids that `GridSample` samples at: the last one before each."""
    makers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    todo = [name for node in graph.node if node.op_type == "GridSample" for name in node.input[1:2]]
    seen = set()
    while todo:
        name = todo.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.name in weighted:
            found.add(node.name)
        else:
            todo += [each for each in node.input if each]
    return found
