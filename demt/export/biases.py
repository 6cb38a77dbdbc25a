"""Biases that make up for weights in 8 bits: rounding a weight shifts what a layer gives by the mean of its input.

Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019 (arXiv 1906.04721),
section 4.2, with means from pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def input_means(proto: Any, layers: Sequence[str], images: Sequence[Any]) -> dict[str, Floats]:
    """The mean over pixels and images of each input channel, by the name of the layer.

    Args:
        proto: An ONNX model whose layers (`Conv` or `Gemm`) have names.
        layers: Their names.
        images: Arrays (batch, channels, height, width).
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    watched = copy.deepcopy(proto)
    graph = watched.graph
    kinds = {node.name: node for node in graph.node if node.name in set(layers)}
    for axes in ((0,), (0, 2, 3)):
        graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"mean_axes_{len(axes)}"))
    for name in layers:
        axes_name = f"mean_axes_{3 if kinds[name].op_type == 'Conv' else 1}"
        mean = helper.make_node("ReduceMean", [kinds[name].input[0], axes_name], [f"{name}_mean"], keepdims=0)
        graph.node.append(mean)
        graph.output.append(helper.make_tensor_value_info(f"{name}_mean", TensorProto.FLOAT, [None]))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = [f"{name}_mean" for name in layers]
    found = [session.run(wanted, {"images": image}) for image in images]
    return {name: np.mean([each[i] for each in found], axis=0, dtype=np.float64) for i, name in enumerate(layers)}


def with_corrected_biases(proto: Any, layers: set[str], means: Mapping[str, Floats]) -> Any:
    """A copy of the model whose layers have, with weights of 8 bits, the mean output that they had with their own.

    Weights are rounded as onnxruntime does: in steps of 1 / 127 of the largest of their output channel. Layers without
    a constant bias stay as they are.
    """
    from onnx import numpy_helper

    corrected = copy.deepcopy(proto)
    graph = corrected.graph
    constants = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.name not in layers or len(node.input) < 3 or node.input[2] not in constants:
            continue
        weight, bias = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        attributes = {each.name: each.i for each in node.attribute}
        if node.op_type == "Gemm" and not attributes.get("transB"):
            weight = weight.T
        mean = means[node.name]
        # Kernels add up: means are alike all over a map. A group of outputs sees its own group of inputs.
        change = rounding(weight).reshape(*weight.shape[:2], -1).sum(2)
        groups = attributes.get("group", 1)
        inputs = np.repeat(mean.reshape(groups, -1), len(weight) // groups, axis=0)
        name = f"{node.name}_bias"
        graph.initializer.append(numpy_helper.from_array(bias - (change * inputs).sum(1).astype(bias.dtype), name))
        node.input[2] = name
    used = {name for node in graph.node for name in node.input}
    for each in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(each)
    return corrected


def rounding(weight: NDArray[Any]) -> Floats:
    """What rounding to 8 bits, with a scale for each output channel (axis 0), adds to a weight."""
    values = weight.astype(np.float64)
    step = np.maximum(np.abs(values).reshape(len(values), -1).max(1) / 127, 1e-30).reshape(-1, *[1] * (values.ndim - 1))
    change: Floats = np.rint(values / step) * step - values
    return change
