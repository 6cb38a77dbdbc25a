"""What averages at test time gain, and cost: a packaged model on synthetic rooms it has not seen.

    python -m tests.benchmarks.tta [--model demt_nano.rooms] [--rooms 60]

Metrics are computed here with NumPy and scikit-learn. Time is that of the process's CPU, on one thread.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.metrics import average_precision_score

import demt
from demt.data import SyntheticRooms
from demt.inference import tta as averages

VIEWS = {
    "one view": None,
    "flip": "flip",
    "0.75, 1, 1.25": [0.75, 1, 1.25],
    "flip and 0.75, 1, 1.25": ["flip", 0.75, 1, 1.25],
}


def scores(predictions, labels, classes):
    confusion = np.zeros((classes, classes))
    for found, true in zip(predictions, labels):
        np.add.at(confusion, (true["semseg"].ravel(), found["semseg"].ravel()), 1)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    cosine = np.stack([(f["normals"] * t["normals"]).sum(0) for f, t in zip(predictions, labels)])
    depth = np.stack([f["depth"] - t["depth"] for f, t in zip(predictions, labels)])
    result = [100 * np.mean(confusion.diagonal()[union > 0] / union[union > 0])]
    result += [np.degrees(np.arccos(cosine.clip(-1, 1))).mean(), np.sqrt((depth**2).mean())]
    for name in ("sal", "edge"):
        true, found = (np.concatenate([maps[name].ravel() for maps in each]) for each in (labels, predictions))
        result.append(100 * average_precision_score(true > 0.5, found))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demt_nano.rooms")
    parser.add_argument("--rooms", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = demt.create_model(arguments.model, pretrained=True).eval()
    rooms = SyntheticRooms(model.pretrained_cfg.input_size[1:], arguments.rooms, seed=90_001)
    labels = [rooms.render(index) for index in range(len(rooms))]
    images = [maps["image"].transpose(1, 2, 0).copy() for maps in labels]
    print("| | mIoU | normals, mean ° | depth RMSE, m | saliency AP | boundary AP | ms an image |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    unscaled = averages._as_unscaled
    for name, views in [*VIEWS.items(), ("the last, depth as it comes", VIEWS["flip and 0.75, 1, 1.25"])]:
        averages._as_unscaled = unscaled if name in VIEWS else lambda task, values, scale: values
        start = time.process_time()
        predictions = [demt.predict(model, image, tta=views) for image in images]
        spent = 1000 * (time.process_time() - start) / len(images)
        miou, angle, rmse, sal, edge = scores(predictions, labels, model.tasks["semseg"].channels)
        print(f"| {name} | {miou:.2f} | {angle:.2f} | {rmse:.3f} | {sal:.2f} | {edge:.2f} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
