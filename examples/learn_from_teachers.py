"""One network that learns from two teachers and from rooms.

``python examples/learn_from_teachers.py PICTURES`` labels a folder of pictures for saliency (by the small model in the
package, which was trained on rooms; use a better one) and for boundaries (by a function), mixes them half and half with
rooms that are labelled for depth and normals, and trains one model for all four tasks, in a few minutes on a CPU; data
and model are in the folder ``learn_from_teachers``. Without a folder of pictures, rooms stand in for them. On the
command line, the same is ``demt pseudo-label`` and ``data.sources`` of ``demt train``: see docs/teachers.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demt.data import SyntheticRooms
from demt.inference.pseudo_label import pseudo_label
from demt.train import load_recipe, train

SIZE = (96, 128)


def boundaries(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """A teacher of few words: there is a boundary where colours change."""
    rows, columns = np.gradient(pixels.astype(np.float64), axis=(0, 1))
    return {"edge": np.clip(np.hypot(rows, columns).max(2) / 60, 0, 1)}


def write_pictures(folder: Path, count: int) -> None:
    """Pictures without labels."""
    folder.mkdir(parents=True)
    rooms = SyntheticRooms(SIZE, count, seed=7)
    for index in range(count):
        Image.fromarray(rooms.render(index)["image"].transpose(1, 2, 0)).save(folder / f"{index:04d}.png")


def main(steps: int = 200, pictures: str | None = None, folder: str | None = None) -> dict[str, float]:
    """Label, mix, train, and return the results on held-out rooms."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(folder or temporary)
        if pictures is None:
            write_pictures(root / "pictures", 4 if steps < 10 else 100)
        source = pictures or root / "pictures"
        pseudo_label("demt_nano.rooms", source, root / "labelled", tasks="sal", size=256)
        made = pseudo_label(boundaries, source, root / "labelled", tasks="edge", size=256)
        taught = {"root": str(made.folder), "tasks": made.tasks, "encodings": made.encodings, "val_ids": []}
        rooms = {"dataset": "rooms", "tasks": ["depth", "normals"], "length": 10 * steps, "val_length": min(steps, 50)}
        changes = [
            "model.name=demt_nano",
            f"data.size={list(SIZE)}",
            f"data.sources={[rooms, taught]}",
            "data.workers=0",
            f"optim.warmup={steps // 10}",
            f"out={root / 'run'}",
            f"steps={steps}",
            "samples=0",
        ]
        return train(load_recipe("rooms", changes)).results


if __name__ == "__main__":
    main(pictures=sys.argv[1] if len(sys.argv) > 1 else None, folder="learn_from_teachers")
