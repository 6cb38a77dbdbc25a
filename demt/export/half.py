"""Weights of an ONNX file in 16 bits: half the file, the same operators in float32."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

#: Smaller constants stay as they are: sizes, scales, biases.
LEAST = 256


def store_float16(model: Any, names: Collection[str] | None = None) -> None:
    """Store the float32 weights of an `onnx_ir.Model` in float16, each with a `Cast` that runtimes do once, on loading.

    A weight beyond float16's range stays float32.

    Args:
        model: Changed in place.
        names: Of the weights; by default all constants of at least `LEAST` numbers.
    """
    import onnx_ir as ir

    graph = model.graph
    first = graph[0]
    for name, weight in list(graph.initializers.items()):
        chosen = weight.const_value.size >= LEAST if names is None else name in names
        if weight.const_value.dtype != ir.DataType.FLOAT or not chosen:
            continue
        with np.errstate(over="ignore"):
            values = weight.const_value.numpy().astype(np.float16)
        if not np.isfinite(values).all():
            continue
        stored = ir.val(f"{name}_float16", const_value=ir.tensor(values, name=f"{name}_float16"))
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value})
        cast.outputs[0].shape, cast.outputs[0].type = weight.shape, weight.type
        weight.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(stored)
        graph.insert_before(first, cast)
