"""ONNX files as teachers, with a description in YAML or JSON of what goes in and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from demt.files import file_sha256
from demt.inference.blend import class_confidence
from demt.inference.onnx_description import ENDINGS, Description, Output, Scaling, read_description
from demt.inference.teachers import Opinion, Pixels, Teacher, TeacherError
from demt.ops.resize import resize
from demt.tasks import Task, is_class_map


def onnx_teacher(path: Path) -> Teacher:
    """The teacher in an ONNX file, with the description of the same name beside it.

    It is run once on a grey picture, so that a description that does not fit shows before anything is labelled.

    Raises:
        FileNotFoundError: if the file or its description is missing.
        ImportError: if onnxruntime is missing.
        ValueError: for a broken file or description; `TeacherError` where they do not fit together.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No ONNX file {str(path)!r}")
    beside = [path.with_suffix(ending) for ending in ENDINGS]
    about = next((file for file in beside if file.is_file()), None)
    if about is None:
        raise FileNotFoundError(
            f"No description of {str(path)!r}: write {beside[0].name!r} beside it, which describes its inputs and "
            "outputs (docs/teachers.md)"
        )
    description = read_description(about)
    tasks = {name: output.task(name) for name, output in description.outputs.items()}
    network = _Network(path, description, tasks)
    fixed = network.size if isinstance(network.size, tuple) else (64, 64)
    network(np.full((*fixed, 3), 127, np.uint8))
    return Teacher(tasks, network, {"onnx": file_sha256(path), "description": repr(description)})


class _Network:
    """An ONNX file from pixels to maps."""

    def __init__(self, path: Path, description: Description, tasks: dict[str, Task]) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ImportError("ONNX teachers need onnxruntime: pip install 'demt[onnx]'") from None
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises classes of its own.
            raise ValueError(f"{str(path)!r} cannot be read as an ONNX file: {_line(error)}") from error
        self.path, self.description, self.tasks = path, description, tasks
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise TeacherError(f"{str(path)!r}: expected one input (1, 3, H, W), got {[i.shape for i in inputs]}")
        self.input = inputs[0].name
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        if inputs[0].type not in kinds:
            raise TeacherError(f"{str(path)!r}: expected an input of floats or uint8, got {inputs[0].type}")
        self.dtype = kinds[inputs[0].type]
        sides = inputs[0].shape[1:3] if description.layout == "nhwc" else inputs[0].shape[2:]
        fixed = tuple(sides) if all(isinstance(side, int) for side in sides) else None
        if fixed and isinstance(description.size, tuple) and description.size != fixed:
            raise TeacherError(f"{str(path)!r} takes pictures of {fixed}, but `size` is {description.size}")
        self.size = fixed or description.size
        self.names = [each.name for each in self.session.get_outputs()]
        for name, output in description.outputs.items():
            known: list[Any] = [*self.names, *range(len(self.names))]
            if output.output not in known:
                raise TeacherError(
                    f"{str(path)!r} has no output {output.output!r} for task {name!r}; it has {self.names}"
                )

    def __call__(self, pixels: Pixels) -> dict[str, Opinion]:
        """A map of each task at the picture's size."""
        values = self._prepared(torch.from_numpy(pixels).permute(2, 0, 1)[None].float()).numpy()
        array = np.ascontiguousarray(values.transpose(0, 2, 3, 1) if self.description.layout == "nhwc" else values)
        try:
            found = dict(zip(self.names, self.session.run(None, {self.input: array.astype(self.dtype)})))
        except Exception as error:
            raise TeacherError(f"{str(self.path)!r} cannot run on an input {array.shape}: {_line(error)}") from error
        maps: dict[str, Opinion] = {}
        for name, task in self.tasks.items():
            output = self.description.outputs[name]
            key = output.output if isinstance(output.output, str) else self.names[output.output]
            maps[name] = self._opinion(task, output, np.asarray(found[key]), pixels.shape[:2], key)
        return maps

    def _prepared(self, image: Tensor) -> Tensor:
        about = self.description
        height, width = image.shape[-2:]
        size = self.size if isinstance(self.size, tuple) else (height, width)
        if isinstance(self.size, int):
            size = tuple(side * self.size / max(height, width) for side in (height, width))
        if not isinstance(self.size, tuple):
            size = tuple(max(round(side / about.multiple), 1) * about.multiple for side in size)
        if size != (height, width):
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        image = image.flip(1) if about.channels == "bgr" else image
        mean, std = (torch.tensor(each)[:, None, None] for each in (about.mean, about.std))
        return (image / about.divisor - mean) / std

    def _opinion(self, task: Task, output: Output, found: NDArray[Any], size: tuple[int, ...], key: str) -> Opinion:
        classes = task.activation == "argmax"
        shape, where = found.shape, f"{str(self.path)!r}: output {key!r} for task {task.name!r}"
        ids = classes and found.dtype.kind in "iu"
        found = found[0] if found.ndim == 4 else found
        if found.ndim == 3 and self.description.layout == "nhwc" and len(shape) == 4:
            found = found.transpose(2, 0, 1)
        found = found[None] if found.ndim == 2 else found
        channels = 1 if ids or task.activation == "foreground" else task.channels
        if found.ndim == 3 and output.scaling == "softmax":
            found = torch.from_numpy(found.astype(np.float32)).softmax(0).numpy()
        if found.ndim == 3 and output.channel is not None and output.channel < len(found):
            found = found[output.channel][None]
        if found.ndim != 3 or found.shape[0] != channels:
            hint = f"; is `channels` {channels} right?" if classes else "; say which `channel` to take"
            raise TeacherError(f"{where} has the shape {shape}, expected (1, {channels}, h, w){hint}")
        if ids:
            nearest = F.interpolate(torch.from_numpy(found.astype(np.float32))[None], size=tuple(size))
            return nearest[0, 0].numpy().astype(np.int64)
        if not np.isfinite(found).all():
            raise ValueError(f"{where} has NaN or infinite values")
        maps = _scaled(torch.from_numpy(found.astype(np.float32)), output.scaling)
        if task.activation in ("argmax", "foreground", "sigmoid"):
            if maps.min() < -1e-3 or maps.max() > 1.001:
                raise TeacherError(
                    f"{where} has values from {maps.min():.4g} to {maps.max():.4g}, which are not probabilities; "
                    f"declare its `scaling`, one of {get_args(Scaling)[1:]}"
                )
            maps = maps.clamp(0, 1)
        elif task.activation == "unit" and task.channels == 3:
            maps = maps * torch.tensor(output.signs)[:, None, None]
        else:
            maps = maps * output.factor
        if classes:
            best = resize(maps[None], size)[0].argmax(0).numpy()
            return best, class_confidence(maps[None], best)
        maps = resize(maps[None], size)[0]
        return (maps[0] if is_class_map(task) or task.channels == 1 else maps).numpy()


def _scaled(maps: Tensor, scaling: Scaling) -> Tensor:
    if scaling == "sigmoid":
        return maps.sigmoid()
    if scaling == "minmax":
        low, high = maps.min(), maps.max()
        return (maps - low) / (high - low).clamp_min(1e-12)
    return maps / 255 if scaling == "0..255" else maps


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
