"""The three file formats of `demt.export`: how each is written, and run again to be compared."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram

from demt.export.capture import ExportError, first_line
from demt.export.half import store_float16
from demt.ops.runtime import compile_package, has_cpp_compiler

_ANY_SIZE = 1 << 31

Runner: TypeAlias = Callable[[Tensor], dict[str, Tensor]]

#: Name of the metadata inside a pt2 file, and its key in a package of AOTInductor.
METADATA_FILE, METADATA_KEY = "demt.json", "demt"


def check_available(format: str) -> None:
    """Raise `ImportError` or `FileNotFoundError`, saying what to install, if this machine cannot write a format."""
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f"Writing ONNX needs {' and '.join(missing)}: pip install 'demt[onnx]'")
    if format == "aoti" and not has_cpp_compiler():
        raise FileNotFoundError(
            "A package of AOTInductor needs a C++ compiler, and there is none; install g++ or clang++"
        )


def write(
    program: ExportedProgram, path: Path, format: str, metadata: Mapping[str, Any], opset: int, float16: bool = False
) -> Runner | None:
    """Write a captured program, and return what runs the file; None where nothing here can.

    Raises:
        ExportError: with the first line of what torch or the format's own library has against the program.
    """
    try:
        if format == "onnx":
            return _write_onnx(program, path, metadata, opset, float16)
        return (_write_pt2 if format == "pt2" else _write_aoti)(program, path, json.dumps(metadata))
    except OSError:
        raise
    except Exception as error:
        raise ExportError(f"This model cannot be written as {format}: {first_line(error)}") from error


def _write_onnx(
    program: ExportedProgram, path: Path, metadata: Mapping[str, Any], opset: int, float16: bool = False
) -> Runner | None:
    import onnx
    from onnxscript import optimizer

    names = [task["name"] for task in metadata["tasks"]]
    written: Any = torch.onnx.export(
        program, (), input_names=["images"], output_names=names, opset_version=opset, verbose=False
    )
    # Weights of any size that are cut or turned in the graph become constants: onnxruntime quantises nothing else.
    optimizer.fold_constants(written.model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    optimizer.remove_unused_nodes(written.model)
    _name_sizes(written.model.graph)
    if float16:
        store_float16(written.model)
    for node in written.model.graph:
        node.metadata_props.clear()
    written.model.metadata_props.update(
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    )
    written.save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    return onnx_runner(path)


def onnx_runner(file: Path | bytes, threads: int | None = None) -> Runner:
    """What runs an ONNX file, or its contents, with onnxruntime on the CPU; `threads` by default as onnxruntime has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    return session_runner(onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]))


def session_runner(session: Any) -> Runner:
    """What runs a session of onnxruntime."""
    names = [each.name for each in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, map(torch.from_numpy, session.run(names, {"images": images.numpy()}))))

    return run


def openvino_runner(path: Path, threads: int, precision: str) -> Runner:
    """What runs an ONNX file with OpenVINO on the CPU, compiled anew for each size of images.

    With its sizes open, a file in 8 bits took minutes to compile.
    """
    import openvino

    core = openvino.Core()
    # Left alone, OpenVINO computes in bf16 where the processor can.
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}

    @functools.cache
    def compiled(shape: tuple[int, ...]) -> Any:
        network = core.read_model(str(path))
        network.reshape(list(shape))
        return core.compile_model(network, "CPU", options)

    def run(images: Tensor) -> dict[str, Tensor]:
        found = compiled(tuple(images.shape))([images.numpy()])
        return {output.get_any_name(): torch.from_numpy(values.copy()) for output, values in found.items()}

    return run


def _name_sizes(graph: Any) -> None:
    """Call open sizes by their names, in all shapes, instead of by torch's numbers."""
    (images,) = graph.inputs
    names = dict(zip((str(getattr(size, "value", size)) for size in images.shape), ("batch", "", "height", "width")))
    symbols = re.compile(r"\bs\d+\b")
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        for index, size in enumerate(value.shape or ()):
            if isinstance(text := getattr(size, "value", size), str):
                value.shape[index] = symbols.sub(lambda match: names.get(match[0], match[0]), text)


def _write_pt2(program: ExportedProgram, path: Path, metadata: str) -> Runner:
    # An open file: torch wants a path to end in .pt2.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA_FILE: metadata})
    with path.open("rb") as written:
        return runner(torch.export.load(written))


def runner(program: ExportedProgram) -> Runner:
    """What runs a program in this process."""
    module = program.module()

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(images)  # type: ignore[no-any-return]

    return run


def _write_aoti(program: ExportedProgram, path: Path, metadata: str) -> Runner:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        package = Path(folder) / "model.pt2"
        loaded = compile_package(program, str(package), {METADATA_KEY: metadata})
        shutil.move(package, path)
    return lambda images: dict(loaded(images))
