"""Stored inputs and results of the original boundary evaluation (see tests/golden/boundary/README.md)."""

import json
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "boundary"


@cache
def load(name):
    with np.load(FOLDER / f"{name}.npz") as data:
        return dict(data)


@cache
def summary():
    return json.loads((FOLDER / "summary.json").read_text())


KEYS = sorted(key.removesuffix(".exact") for key in load("counts") if key.endswith(".exact"))
#: Keys whose images are small: quick also in plain Python.
SMALL = [key for key in KEYS if load("inputs")[key.split(".")[0] + ".pred"].size < 50_000]


def bits(name, key, shape):
    return np.unpackbits(load(name)[key])[: shape[0] * shape[1]].reshape(shape).astype(bool)


def case(key):
    """Prediction, target and keyword arguments of `boundary_counts` for a key ``case.mode.max_distance``."""
    name, mode, max_distance = key.split(".", 2)
    inputs, counts = load("inputs"), load("counts")
    settings = {
        "max_distance": float(max_distance),
        "thresholds": counts[f"thr.{mode}"],
        "nms": "seism" if mode == "seism" else None,
        "thin": mode != "raw",
    }
    return inputs[f"{name}.pred"], inputs[f"{name}.gt"], settings
