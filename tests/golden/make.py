"""Weights and inputs of the golden cases, made from names: a Philox generator keyed by the CRC of each name."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "official"


def cases(file: str) -> dict[str, dict[str, Any]]:
    return json.loads((FOLDER / f"{file}.json").read_text())


def expected(file: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{file}.safetensors")


def standard_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return generator.standard_normal(shape).astype(np.float32)


def made_input(case: str, name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(standard_normal(f"{case}/{name}", shape))


def state_dict(manifest: str) -> dict[str, Tensor]:
    """Released names to values, for a manifest file."""
    state = {}
    for name, spec in json.loads((FOLDER / manifest).read_text()).items():
        shape, dtype = spec if spec and isinstance(spec[0], list) else (spec, "float32")
        if "relative_position_index" in name:
            continue
        if dtype != "float32" or name.endswith((".offset", "num_batches_tracked")):
            integer = dtype == "int64" or name.endswith("num_batches_tracked")
            state[name] = torch.zeros(shape, dtype=torch.int64 if integer else torch.float32)
        else:
            state[name] = torch.from_numpy(np.ascontiguousarray(_parameter(name, tuple(shape)), dtype=np.float32))
    return state


def _parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values, last = standard_normal(name, shape), name.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + 0.1 * np.abs(values)
    if last == "running_mean":
        return 0.1 * values
    if len(shape) >= 2:
        return values / np.float32(math.sqrt(np.prod(shape[1:])))
    return 1 + 0.1 * values if last == "weight" else 0.1 * values
