"""Fine-tuning on data and tasks of one's own, with labels of which some are missing.

``python examples/finetune_own_tasks.py`` writes a small data set as folders of pictures (rooms: where people are, a
task of its own, and depth, which every second image lacks), trains on it, and evaluates, in minutes on a CPU. With your
own folders, and published weights instead of the small model's random ones, the same recipe is
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
    "people": {
        "channels": 2,
        "activation": "argmax",
        "loss": "cross_entropy",
        "metric": "miou",
        "classes": ["room", "person"],
        "palette": [[40, 40, 60], [250, 180, 60]],
    },
    "depth": 1,
}


def write_data(root: Path, images: int) -> None:
    """Folders ``images``, ``people`` and ``depth``, and the lists of names that train and evaluate."""
    rooms = SyntheticRooms((96, 128), images)
    for folder in ("images", "people", "depth"):
        (root / folder).mkdir(parents=True)
    for index in range(images):
        maps = rooms.render(index)
        Image.fromarray(maps["image"].transpose(1, 2, 0)).save(root / f"images/{index:04d}.jpg", quality=95)
        Image.fromarray((maps["human_parts"] > 0).astype(np.uint8)).save(root / f"people/{index:04d}.png")
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
            "model.name=degmix_nano.nyud",
            "model.pretrained_backbone=false",
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
