"""A model in 8 bits: time by operator, size, differences from float32, and scores on rooms and for other calibrations.

python -m tests.benchmarks.int8 demt_lite.photos PICTURES [--size 288x384] [--rounds 9] [--calibrations] [--rooms 24]

MODEL is a name or a folder. Of the folder PICTURES every second one calibrates and the others measure. Processor time
of one thread, minima in turns, in onnxruntime and OpenVINO; operators by onnxruntime's own profiler, minima.
`--calibrations` tries percentile and entropy calibration on 4 of the pictures, too. The files stay in `--save`;
`tests.benchmarks.photographs` judges them on photographs. With the package onnxruntime-openvino in place of onnxruntime
the same files run with its OpenVINO provider, too.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

import demt
from demt.cli.load import load_model
from demt.data import SyntheticRooms
from demt.export.calibration import calibration_pictures, prepared
from demt.export.choose import Judge
from demt.export.formats import Runner, onnx_runner, openvino_runner, session_runner
from demt.export.quantize import QuantizableFile, _Reader
from demt.export.write import export
from demt.models import MultiTaskModel
from demt.train.run import make_metrics

#: Layers at the start of the backbone that a search within a bound leaves in float32.
FIRST = 8
#: Files of the three forms.
FILES = ("float32.onnx", "int8.onnx", "int8_first_float32.onnx")
PROVIDER = "OpenVINOExecutionProvider"
CALIBRATIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "percentile 99.99": (CalibrationMethod.Percentile, {"percentile": 99.99, "num_bins": 2048}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 128, "num_quantized_bins": 128}),
}


def provider_runner(file: Path) -> Runner:
    """What runs an ONNX file in onnxruntime with its OpenVINO provider, compiled anew for each size of images."""

    @functools.cache
    def compiled(shape: tuple[int, ...]) -> Runner:
        options = onnxruntime.SessionOptions()
        for name, side in zip(("batch", "height", "width"), (shape[0], *shape[2:])):
            options.add_free_dimension_override_by_name(name, side)
        device = {"device_type": "CPU", "num_of_threads": "1"}
        return session_runner(onnxruntime.InferenceSession(file, options, providers=[(PROVIDER, device)]))

    return lambda images: compiled(tuple(images.shape))(images)


def ranges(file: QuantizableFile, method: Any, options: Mapping[str, Any], images: Sequence[Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(file.contents)
        kinds = ["Conv", "Gemm", "MatMul", "Clip", "Relu"]
        calibrator = create_calibrator(
            path,
            kinds,
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=method,
            extra_options={"symmetric": False, **options},
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        for image in images:  # one at a time: all activations of an image are in memory
            calibrator.collect_data(_Reader([image]))
        return calibrator.compute_data()


def minima(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor time in turns, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: min(values[1:]) for name, values in times.items()}


def by_operator(contents: bytes, image: Any, rounds: int) -> dict[str, float]:
    """Milliseconds by operator: of each node the least of all rounds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(contents, options)
        for _ in range(rounds + 1):
            session.run(None, {"images": image})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["args"]["op_name"], event["name"])
            nodes[key] = min(nodes.get(key, float("inf")), event["dur"] / 1e3)
    total: collections.Counter[str] = collections.Counter()
    for (kind, _), duration in nodes.items():
        total[kind] += duration  # type: ignore[assignment]
    return dict(total.most_common(14))


@torch.no_grad()
def rooms(model: MultiTaskModel, run: Runner, size: tuple[int, int], count: int) -> dict[str, float]:
    metrics = make_metrics(model.tasks, "rooms", None)
    data = SyntheticRooms(size, count, seed=7)
    for index in range(count):
        sample = data[index]
        logits = run(demt.preprocess(model, sample["image"]))
        metrics.update(logits, {name: sample[name][None] for name in model.tasks})
    return {name: float(value) for name, value in metrics.compute().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--size", default="288x384")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calibrations", action="store_true")
    parser.add_argument("--rooms", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path("runs/int8"), help="folder for the files")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    model = load_model(arguments.model, False).eval()
    images = [prepared(model, file, None) for file in calibration_pictures(arguments.pictures)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.onnx"
        export(model, path)
        file = QuantizableFile(path, images[::2])
    judge = Judge(model.tasks, file.contents, images[1::2], False)
    forms = {"float32": file.contents, "8 bits": file.quantized(file.layers)}
    forms[f"8 bits but the first {FIRST}"] = file.quantized(file.layers[FIRST:])
    arguments.save.mkdir(parents=True, exist_ok=True)
    for name, form in zip(FILES, forms.values()):
        (arguments.save / name).write_bytes(form)
    image = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    runs = {name: onnx_runner(form, threads=1) for name, form in forms.items()}
    for name, file_name in zip(("float32", "8 bits"), FILES):
        for precision in ("fp32", "bf16"):
            runs[f"{name}, OpenVINO, {precision}"] = openvino_runner(arguments.save / file_name, 1, precision)
        if PROVIDER in onnxruntime.get_available_providers():
            runs[f"{name}, OpenVINO provider"] = provider_runner(arguments.save / file_name)
    times = minima(
        {name: lambda run=run: run(torch.from_numpy(image)) for name, run in runs.items()},  # type: ignore[misc]
        arguments.rounds,
    )
    if arguments.calibrations:
        for name, (method, options) in CALIBRATIONS.items():
            file._ranges = ranges(file, method, options, images[:8:2])
            forms[name] = file.quantized(file.layers)
    for name, form in forms.items():
        found = ", ".join(f"{task} {value:.1%}" for task, value in judge.measure(form).items())
        print(f"{name}: {len(form) / 1e6:.2f} MB, {found}", flush=True)
    for name, took in times.items():
        print(f"{name}: {took:.0f} ms, ratio {times['float32'] / took:.2f}", flush=True)
    for name in ("float32", "8 bits"):
        spent = by_operator(forms[name], image, 3 * arguments.rounds)
        print(f"{name}: " + ", ".join(f"{kind} {ms:.1f}" for kind, ms in spent.items()), flush=True)
    if arguments.rooms:
        for name in ("float32", "8 bits", "8 bits, OpenVINO, bf16", "8 bits, OpenVINO provider"):
            if name not in runs:
                continue
            scores = rooms(model, runs[name], (height, width), arguments.rooms)
            print(f"{name}, rooms: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()), flush=True)


if __name__ == "__main__":
    main()
