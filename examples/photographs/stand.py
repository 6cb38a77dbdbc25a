"""Rooms in which cut-out objects stand on the floor, with labels: depth of things that no room has.

``python -m examples.photographs.stand CUTOUTS OUT --count 800`` renders rooms of 288 x 384 pixels and puts up to three
cut-outs (PNG files with an alpha channel) on their floor, as tall as an object of 0.3 to 1.9 m is at that distance. The
whole object has the depth of the floor where it stands; what is nearer hides it. It is salient where it is large, has
an outline, and no label of classes and normals. `MultiTaskFolder` reads what is in OUT.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from demt.data import SyntheticRooms
from demt.data.tv_tensors import IGNORE
from examples.photographs.paste import cutout

SIZE, SEED = (288, 384), 11
#: Of the picture: objects that are smaller are not said to be salient.
SALIENT = 0.02

Maps = dict[str, NDArray[Any]]


def put(maps: Maps, thing: Image.Image, row: int, column: int) -> None:
    """Put an object into a room, in place: its lowest pixel stands at a row and column of the floor."""
    height, width = maps["depth"].shape
    alpha = np.zeros((height, width), np.float32)
    colours = np.zeros((height, width, 3), np.float32)
    top, left = row + 1 - thing.height, column - thing.width // 2
    rows, columns = slice(max(top, 0), row + 1), slice(max(left, 0), min(left + thing.width, width))
    shown = thing.crop((columns.start - left, rows.start - top, columns.stop - left, rows.stop - top))
    pixels = np.asarray(shown, np.float32)
    alpha[rows, columns], colours[rows, columns] = pixels[..., 3] / 255, pixels[..., :3]
    depth = maps["depth"][row, column]
    alpha *= maps["depth"] >= depth - 0.02
    maps["image"] = (maps["image"] * (1 - alpha) + colours.transpose(2, 0, 1) * alpha + 0.5).astype(np.uint8)
    mask = alpha > 0.5
    maps["depth"][mask], maps["semseg"][mask], maps["human_parts"][mask] = depth, IGNORE, 0
    maps["normals"][:, mask] = 0
    maps["sal"][mask] = 1 if mask.mean() > SALIENT else IGNORE
    maps["edge"][mask] = 0
    maps["edge"][mask & ~binary_erosion(mask, border_value=1)] = 1


def furnished(rooms: SyntheticRooms, index: int, cutouts: Sequence[Path]) -> Maps:
    """A room with up to three objects, the farthest first."""
    draw = random.Random(index)
    maps = rooms.render(index)
    focal = float(rooms.intrinsics(index)[1, 1])
    classes = rooms.tasks["semseg"].classes
    floor = np.argwhere(np.isin(maps["semseg"], [classes.index(name) for name in ("floor", "rug")]))
    if len(floor) == 0:
        return maps
    places = [floor[draw.randrange(len(floor))] for _ in range(draw.choice((0, 1, 1, 2, 3)))]
    for row, column in sorted(places, key=lambda place: -maps["depth"][tuple(place)]):
        tall = draw.uniform(0.3, 1.9) * focal / maps["depth"][row, column]
        with Image.open(draw.choice(cutouts)) as opened:
            put(maps, cutout(opened.convert("RGBA"), min(tall / SIZE[0], 0.95), draw), row, column)
    return maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cutouts", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--count", type=int, default=800)
    args = parser.parse_args()
    cutouts = sorted(args.cutouts.iterdir())
    rooms = SyntheticRooms(SIZE, args.count, SEED)
    for task in ("images", *rooms.tasks):
        (args.out / task).mkdir(parents=True, exist_ok=True)
    for index in range(args.count):
        maps = furnished(rooms, index, cutouts)
        Image.fromarray(maps["image"].transpose(1, 2, 0)).save(args.out / "images" / f"{index:04d}.png")
        for task in ("semseg", "human_parts", "sal", "edge"):
            Image.fromarray(maps[task].astype(np.uint8)).save(args.out / task / f"{index:04d}.png")
        np.save(args.out / "depth" / f"{index:04d}.npy", maps["depth"])
        np.save(args.out / "normals" / f"{index:04d}.npy", maps["normals"].transpose(1, 2, 0))


if __name__ == "__main__":
    main()
