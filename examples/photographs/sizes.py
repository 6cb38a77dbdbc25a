"""Depth of photographs by a model that sees each at several sizes and mirrored: labels it can learn from itself.

``python -m examples.photographs.sizes MODEL U2NETP.onnx PICTURES OUT`` writes a set of ``depth``. A network orders
what is near and far better where objects have the size it knows from training, and its mistakes differ from size to
size. The label is the mean of the logarithms over `SIZES` and both ways round, each without its median, which depends
on the size; the mean of the medians is put back. Then what U²-Net finds salient is brought as near as the ground at its
foot, since a model of rooms sees no object where there is no furniture. The command may be repeated: it goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, label

import demt
from demt.cli.load import load_model
from demt.inference.onnx_teacher import onnx_teacher
from demt.inference.pseudo_label import pseudo_label
from demt.inference.teachers import Function
from demt.models import MultiTaskModel

#: Longer sides.
SIZES = (224, 256, 288, 320)
#: Of the picture: smaller salient objects are left as they are.
LEAST = 0.02


def standing(depth: NDArray[np.float32], saliency: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Depth (H, W) in which nothing of a salient object is farther away than its foot, the lowest tenth of it."""
    found = depth.copy()
    objects, _ = label(saliency > 0.5)
    for index, box in enumerate(find_objects(objects), 1):
        inside = objects[box] == index
        if inside.sum() < LEAST * depth.size:
            continue
        foot = inside.copy()
        foot[: round(0.9 * len(inside))] = False
        part = found[box]
        part[inside] = np.minimum(part[inside], np.median(part[foot]))
    return found


class Depth:
    """A teacher for `demt.inference.pseudo_label.pseudo_label`: the mean depth of a model over several sizes."""

    def __init__(self, model: MultiTaskModel, saliency: Function) -> None:
        self.model, self.saliency = model.eval(), saliency

    def once(self, picture: Image.Image, longest: int, mirrored: bool) -> NDArray[np.float32]:
        """The logarithm of depth at one size, brought to that of the picture."""
        width, height = (max(round(side * longest / max(picture.size)), 1) for side in picture.size)
        seen = picture.resize((width, height), Image.Resampling.LANCZOS)
        if mirrored:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = Image.fromarray(np.log(demt.predict(self.model, seen)["depth"]).astype(np.float32))
        if mirrored:
            found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(found.resize(picture.size, Image.Resampling.BILINEAR))

    def __call__(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        picture = Image.fromarray(pixels)
        logs = np.stack([self.once(picture, size, mirrored) for size in SIZES for mirrored in (False, True)])
        medians = np.median(logs, axis=(1, 2), keepdims=True)
        depth = np.exp((logs - medians).mean(0) + medians.mean()).astype(np.float32)
        return {"depth": standing(depth, np.asarray(self.saliency(pixels)["sal"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a pretrained model")
    for name in ("u2net", "pictures", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = Depth(load_model(args.model), onnx_teacher(args.u2net).function)
    print(pseudo_label(teacher, args.pictures, args.out, tasks="depth"))


if __name__ == "__main__":
    main()
