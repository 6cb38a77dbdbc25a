"""Predictions, labels and figures of the released code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "golden" / "official"
TASKS = ("semseg", "human_parts", "sal", "normals", "depth", "edge")


@cache
def figures() -> dict[str, float]:
    return json.loads((FOLDER / "losses_metrics.json").read_text())


@cache
def tensors() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Logits and labels by task."""
    stored = load_file(FOLDER / "losses_metrics.safetensors")
    return {task: stored[f"out/{task}"] for task in TASKS}, {task: stored[f"label/{task}"] for task in TASKS}
