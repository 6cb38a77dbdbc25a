"""The last training of demt_lite.photos: only what refines boundaries learns, from photographs alone.

``python examples/photographs/polish.py RUN/last photographs_exact/set OUT`` takes a model with a `refine_width` and a
folder that ``label.py --exact`` has made. The maps before the refinement are computed once, so that a step of six
photographs takes a seventh of a second on one core (see docs/photographs.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import demt
from demt.data import MultiTaskFolder
from demt.data.transforms import eval_transform
from demt.losses import balanced_bce
from demt.ops import resize


def remembered(model: demt.models.MultiTaskModel, folder: Path) -> tuple[Tensor, ...]:
    """Of all photographs: images, boundaries (255: unsure), maps before the boundaries' head, and its logits."""
    transform = eval_transform(mean=model.pretrained_cfg.mean, std=model.pretrained_cfg.std)
    photographs = MultiTaskFolder(folder, "edge", encodings="edge=values", transform=transform)
    kept: list[tuple[Tensor, ...]] = []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for index in range(len(photographs)):
            sample = photographs[index]
            image = sample["image"][None]
            maps = model.forward_features(image)["edge"]
            kept.append(
                (image.bfloat16(), sample["edge"].view(1, 1, *image.shape[2:]), maps, model.head.heads["edge"](maps))
            )
    return tuple(torch.cat(each) for each in zip(*kept))


def polish(
    model: demt.models.MultiTaskModel, folder: Path, steps: int = 600, rate: float = 1e-2, batch: int = 6
) -> float:
    """Train the details and the boundaries' refinement, in place; returns the mean loss of the last fifty steps."""
    model.eval()
    photographs = remembered(model, folder)
    stem, refine = model.head.details.train(), model.head.refinements["edge"].train()
    optimizer = torch.optim.AdamW([*stem.parameters(), *refine.parameters()], lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(photographs[0]), (batch,))
        images, edges, maps, logits = (each[chosen] for each in photographs)
        if torch.rand(()) < 0.5:
            images, edges, maps, logits = (each.flip(-1) for each in (images, edges, maps, logits))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            refined = refine(logits, maps, stem(images))
        loss = balanced_bce(resize(refined.float(), edges.shape[-2:]), edges)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return sum(losses[-50:]) / len(losses[-50:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "photographs", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = demt.create_model(f"local-dir:{args.model}")
    print(f"loss {polish(model, args.photographs):.4f}")
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
