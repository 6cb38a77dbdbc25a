"""Fine-tuning on your own data and tasks, with some labels missing.

``python examples/finetune_own_tasks.py`` writes a small data set as folders of pictures (rooms: their layout, a task of
its own, and depth, which every second image lacks), fine-tunes the weights in the package on it, and evaluates, in two
minutes on a CPU. With your own folders and other weights, the same recipe is
``demt train finetune data.root=… model.name=…``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from demt.data import SyntheticRooms
from demt.train import load_recipe, train

#: A task of one's own, as a recipe's YAML would say it, beside a built-in one.
TASKS = {
    "layout": {
        "channels": 4,
        "activation": "argmax",
        "loss": "cross_entropy",
        "metric": "miou",
        "classes": ["wall", "floor", "ceiling", "things"],
        "palette": [[200, 190, 170], [140, 100, 70], [240, 240, 235], [60, 120, 180]],
    },
    "depth": 1,
}


def write_data(root: Path, images: int) -> None:
    """Folders ``images``, ``layout`` and ``depth``, and the lists of names that train and evaluate."""
    rooms = SyntheticRooms((96, 128), images, seed=7)  # the weights in the package have not seen these
    for folder in ("images", "layout", "depth"):
        (root / folder).mkdir(parents=True)
    for index in range(images):
        maps = rooms.render(index)
        Image.fromarray(maps["image"].transpose(1, 2, 0)).save(root / f"images/{index:04d}.jpg", quality=95)
        # Walls, floors and ceilings are the first three classes of rooms.
        Image.fromarray(np.minimum(maps["semseg"], 3).astype(np.uint8)).save(root / f"layout/{index:04d}.png")
        if index % 2 == 0:
            millimetres = np.where(maps["depth"] == 255, 0, maps["depth"] * 1000)
            Image.fromarray(millimetres.astype(np.uint16)).save(root / f"depth/{index:04d}.png")
    held_out = max(images // 8, 2)
    names = [f"{index:04d}\n" for index in range(images)]
    (root / "train.txt").write_text("".join(names[held_out:]))
    (root / "val.txt").write_text("".join(names[:held_out]))


def main(steps: int = 300, folder: str | None = None) -> dict[str, float]:
    """Write the data, train, and return the results on held-out images."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(folder or temporary)
        write_data(root / "data", 16 if steps < 10 else 160)
        changes = [
            "model.name=demt_nano.rooms",
            f"data.root={root / 'data'}",
            f"data.tasks={TASKS}",
            "data.encodings={depth: millimetres}",
            "data.size=[96, 128]",
            "data.train_ids=train.txt",
            "data.val_ids=val.txt",
            "data.workers=0",
            "optim.lr=1e-3",
            f"optim.warmup={steps // 10}",
            f"out={root / 'run'}",
            f"steps={steps}",
            "eval_every=100",
            "save_every=100",
            "ema=0.98",
        ]
        return train(load_recipe("finetune", changes)).results


if __name__ == "__main__":
    main(folder="finetune_own_tasks")
