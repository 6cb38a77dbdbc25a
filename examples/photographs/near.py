"""The last training of demt_lite.photos' depth: salient objects of photographs are near, rooms stay as they are.

``python -m examples.photographs.near MODEL photographs_soft/set rooms_standing OUT`` takes a set of ``sal`` and
``depth`` (see ``label.py`` and ``sizes.py``) and rooms with cut-outs (see ``stand.py``). Only depth's query block, head
and refinement learn: all other tasks stay what they are, bit for bit. The maps before them are computed once. The loss
is the mean difference of logarithms, of photographs without its median, as their labels have no scale; there salient
pixels count `SALIENT` times.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset

from demt.cli.load import load_model
from demt.data import MultiTaskFolder
from demt.data.transforms import eval_transform, train_transform
from demt.data.tv_tensors import IGNORE
from demt.models import MultiTaskModel
from demt.ops import resize, stack_tasks
from examples.photographs.polish import descend, follow

SIZE = (288, 384)
#: Photographs and rooms of a step, and what a photograph's loss and its salient pixels count.
PHOTOGRAPHS, ROOMS, WEIGHT, SALIENT = 2, 5, 1.5, 6.0
#: Images, depth, salient or not, and the maps before the query block: those of all tasks before the interaction.
Kept = tuple[Tensor, ...]


def of_depth(model: MultiTaskModel) -> nn.ModuleList:
    """What only depth has, behind the interaction of the tasks."""
    head: Any = model.head
    return nn.ModuleList([head.queries["depth"], head.heads["depth"], head.refinements["depth"]])


@torch.no_grad()
def remembered(model: MultiTaskModel, folder: Path, *transforms: Callable[..., Any]) -> Kept:
    """All samples of a folder as `Kept`, by each of the transforms in turn."""
    head: Any = model.head
    read = [MultiTaskFolder(folder, "sal,depth", encodings="sal=classes", transform=each) for each in transforms]
    samples: ConcatDataset[Any] = ConcatDataset(read)
    kept: list[Tensor] = []
    for index in range(count := len(samples)):
        sample = samples[index]
        image = sample["image"][None]
        maps = stack_tasks(head.mix(head.neck(model.backbone(image))))
        depth, salient = (sample[name].view(1, 1, *image.shape[-2:]) for name in ("depth", "sal"))
        row = (image.bfloat16(), depth, salient == 1, maps.bfloat16())
        kept = kept or [torch.empty(count, *each.shape[1:], dtype=each.dtype) for each in row]
        for column, value in zip(kept, row):
            column[index] = value[0]
    return tuple(kept)


def logarithms(model: MultiTaskModel, images: Tensor, maps: Tensor) -> Tensor:
    """The logarithm of depth (B, 1, H, W), with gradients of what is depth's own alone."""
    head: Any = model.head
    own = list(model.tasks).index("depth")
    with torch.no_grad():
        fused, details = head.interaction(maps), head.details(images)
    z = head.ask("depth", maps[:, own], fused)
    logits = head.refinements["depth"](head.heads["depth"](z), z, details)
    depth: Tensor = model.tasks["depth"].predict(resize(logits, images.shape[-2:]))
    return depth.view(len(images), 1, *images.shape[-2:]).clamp_min(0.05).log()


def loss_of(found: Tensor, depth: Tensor, salient: Tensor) -> Tensor:
    """Of a batch whose first `PHOTOGRAPHS` are photographs."""
    known = (depth > 0) & (depth != IGNORE)
    difference = torch.where(known, found - depth.clamp_min(0.05).log(), 0)
    photographs, rooms = difference[:PHOTOGRAPHS], difference[PHOTOGRAPHS:]
    photographs = photographs - photographs.flatten(1).median(1).values.view(-1, 1, 1, 1).detach()
    weights = torch.where(salient[:PHOTOGRAPHS], SALIENT, 1.0)
    of_photographs = (weights * photographs.abs()).sum() / weights.sum()
    return WEIGHT * of_photographs + rooms.abs().sum() / known[PHOTOGRAPHS:].sum().clamp_min(1)


def train(model: MultiTaskModel, photographs: Kept, rooms: Kept, steps: int, rate: float) -> float:
    """Train what is depth's own, in place; returns the mean loss of the last fifty steps."""
    model.eval().requires_grad_(False)
    learning = of_depth(model).requires_grad_(True)
    average = copy.deepcopy(learning)
    optimizer = torch.optim.AdamW(learning.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for step in range(1, steps + 1):
        drawn = [torch.randint(len(rows[0]), (count,)) for rows, count in ((photographs, PHOTOGRAPHS), (rooms, ROOMS))]
        batch = [torch.cat([p[drawn[0]], r[drawn[1]]]) for p, r in zip(photographs, rooms)]
        if torch.rand(()) < 0.5:
            batch = [each.flip(-1) for each in batch]
        images, depth, salient, maps = batch
        loss = loss_of(logarithms(model, images.float(), maps.float()), depth, salient)
        losses.append(descend(loss, learning, optimizer, schedule))
        follow(average, learning, share=max(0.01, 9 / (step + 9)))
    learning.load_state_dict(average.state_dict())
    return sum(losses[-50:]) / len(losses[-50:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a pretrained model")
    for name in ("photographs", "rooms", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--share", type=float, default=0.75, help="of the way from the weights before to those after")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = load_model(args.model)
    mean, std = model.pretrained_cfg.mean, model.pretrained_cfg.std
    plain = eval_transform(mean=mean, std=std)
    photographs = remembered(model, args.photographs, plain)
    some = photographs[2].flatten(1).float().mean(1) > 0.02
    varied = train_transform(size=SIZE, zoom=(0.8, 1.1), strong=True, mean=mean, std=std)
    rooms = remembered(model, args.rooms, plain, varied)
    before = copy.deepcopy(of_depth(model))
    loss = train(model, tuple(each[some] for each in photographs), rooms, args.steps, args.rate)
    print(f"loss {loss:.4f}")
    follow(before, of_depth(model), args.share)
    of_depth(model).load_state_dict(before.state_dict())
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
