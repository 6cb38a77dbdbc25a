"""More photographs from few: cut-out objects in front of crops of photographs.

``python -m examples.photographs.paste CUTOUTS PICTURES OUT --count 900`` writes pictures of 384 x 288 pixels. Each
shows one to five cut-outs (PNG files with an alpha channel) in front of a crop of one of the pictures. `label.py` then
has its teachers label them like any other picture, so a model learns from what the teachers see in them, not from the
masks of the cut-outs. The same call gives the same pictures.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

SIZE = (384, 288)


def background(picture: Image.Image, draw: random.Random) -> Image.Image:
    """A 4:3 crop of 0.3 to 1 of the largest that fits, one of four out of focus."""
    width, height = picture.size
    across = min(width, height * 4 / 3) * draw.uniform(0.3, 1)
    left, top = draw.uniform(0, width - across), draw.uniform(0, height - across * 3 / 4)
    box = (left, top, left + across, top + across * 3 / 4)
    made = picture.resize(SIZE, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if draw.random() < 0.5:
        made = ImageOps.mirror(made)
    return made.filter(ImageFilter.GaussianBlur(draw.uniform(1, 5))) if draw.random() < 0.25 else made


def cutout(picture: Image.Image, share: float, draw: random.Random) -> Image.Image:
    """The object, mirrored or not, a little turned, brighter or darker, `share` of the scene high or wide.

    It is enlarged by at most a quarter, since an enlarged object has no edges that a teacher could see.
    """
    picture = picture.crop(picture.getchannel("A").getbbox())
    if draw.random() < 0.5:
        picture = ImageOps.mirror(picture)
    picture = picture.rotate(draw.gauss(0, 8), Image.Resampling.BICUBIC, expand=True)
    factor = min(share * SIZE[0] / picture.width, share * SIZE[1] / picture.height, 1.25)
    size = (max(1, round(factor * picture.width)), max(1, round(factor * picture.height)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    alpha = picture.getchannel("A").filter(ImageFilter.GaussianBlur(draw.uniform(0.3, 0.8)))
    picture = ImageEnhance.Brightness(picture).enhance(draw.uniform(0.7, 1.2))
    picture.putalpha(alpha)
    return picture


def scene(cutouts: Sequence[Path], pictures: Sequence[Path], draw: random.Random) -> Image.Image:
    """One picture: half of them have a single object, which is large; in the others the nearest is the largest."""
    with Image.open(draw.choice(pictures)) as opened:
        made = background(opened.convert("RGB"), draw)
    count = draw.choice((1, 1, 1, 2, 3, 5))
    largest = draw.uniform(0.4, 1)
    for index in reversed(range(count)):
        with Image.open(draw.choice(cutouts)) as opened:
            thing = cutout(opened.convert("RGBA"), largest * 0.75**index, draw)
        # Up to a sixth of an object may lie outside.
        left = draw.uniform(-thing.width / 6, SIZE[0] - thing.width * 5 / 6)
        top = draw.uniform(-thing.height / 6, SIZE[1] - thing.height * 5 / 6)
        made.paste(thing, (round(left), round(top)), thing)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cutouts", "pictures", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--count", type=int, default=900)
    args = parser.parse_args()
    cutouts, pictures = (sorted(folder.iterdir()) for folder in (args.cutouts, args.pictures))
    args.out.mkdir(parents=True, exist_ok=True)
    for index in range(args.count):
        scene(cutouts, pictures, random.Random(index)).save(args.out / f"pasted-{index:04d}.png")


if __name__ == "__main__":
    main()
