"""The last trainings of demt_lite.photos: only what refines boundaries learns, from photographs alone.

``python examples/photographs/polish.py RUN/last photographs_exact/set OUT`` takes a model with a `refine_width` and a
folder that ``label.py --exact`` has made. The maps before the refinement are computed once, so that a step of six
photographs takes a seventh of a second on one core. ``--stages 4`` gives the boundaries an encoder of their own first,
which starts from the backbone's first four stages (`refine_stages`), and ``--soft`` learns from the probabilities that
``label.py --soft`` has kept (see docs/photographs.md).
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import demt
from demt.data import MultiTaskFolder
from demt.data.transforms import eval_transform
from demt.losses import balanced_bce
from demt.models import MultiTaskModel
from demt.ops import resize

#: Pretrained stages learn at this share of the rate of what is new.
OF_STAGES = 1 / 6


def with_encoder(model: MultiTaskModel, stages: int, channels: int) -> MultiTaskModel:
    """The model with an encoder of the boundaries' own; of one that it has, what fits is kept."""
    config = model.config.replace(refine_stages={**model.config.refine_stages, "edge": (stages, channels)})
    made = MultiTaskModel(config, pretrained_cfg=model.pretrained_cfg)
    given, state = model.state_dict(), made.state_dict()
    fits = {name: value for name, value in given.items() if name in state and value.shape == state[name].shape}
    made.load_state_dict({**state, **fits})
    made.head.copy_stages(made.backbone, ["edge"])
    made.load_state_dict({**made.state_dict(), **fits})
    return made


def remembered(model: MultiTaskModel, folder: Path, soft: bool = False) -> tuple[Tensor, ...]:
    """Of all photographs: images, boundaries (255: unsure), maps before the boundaries' head, and its logits."""
    transform = eval_transform(mean=model.pretrained_cfg.mean, std=model.pretrained_cfg.std)
    encodings = f"edge={'grey' if soft else 'values'}"
    photographs = MultiTaskFolder(folder, "edge", encodings=encodings, transform=transform)
    kept: list[tuple[Tensor, ...]] = []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for index in range(len(photographs)):
            sample = photographs[index]
            image, edges = sample["image"][None].bfloat16(), sample["edge"].view(1, 1, *sample["image"].shape[1:])
            maps = model.forward_features(sample["image"][None])["edge"]
            kept.append((image, edges, maps.bfloat16(), model.head.heads["edge"](maps).bfloat16()))
    return tuple(torch.cat(each) for each in zip(*kept))


def soft_bce(logits: Tensor, edges: Tensor) -> Tensor:
    """Cross-entropy with probabilities, of which a sure boundary counts five times as much as a sure background."""
    return F.binary_cross_entropy_with_logits(logits, edges, 1 + 4 * edges)


def polish(
    model: MultiTaskModel,
    folder: Path,
    steps: int = 600,
    rate: float = 1e-2,
    batch: int = 6,
    soft: bool = False,
    constant: bool = False,
) -> float:
    """Train the details and the boundaries' refinement, in place; returns the mean loss of the last fifty steps.

    The weights in the end are an average over the last steps. The rate follows one cycle, unless it is `constant`
    after 40 steps.
    """
    model.eval()
    photographs = remembered(model, folder, soft)
    own = "edge" in model.head.encoders
    details = model.head.encoders["edge"] if own else model.head.details
    refine = model.head.refinements["edge"]
    learning = nn.ModuleList([details, refine]).train()
    average = copy.deepcopy(learning)
    slow = [*details.stages.parameters()] if own else []
    fast = [each for each in learning.parameters() if all(each is not other for other in slow)]
    groups = [{"params": fast, "lr": rate}] + ([{"params": slow, "lr": rate * OF_STAGES}] if own else [])
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rates = [group["lr"] for group in groups]
    schedule: torch.optim.lr_scheduler.LRScheduler
    if constant:
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 40))
    else:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    criterion = soft_bce if soft else balanced_bce
    losses = []
    for step in range(1, steps + 1):
        chosen = torch.randint(len(photographs[0]), (batch,))
        images, edges, maps, logits = (each[chosen] for each in photographs)
        if torch.rand(()) < 0.5:
            images, edges, maps, logits = (each.flip(-1) for each in (images, edges, maps, logits))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            refined = refine(logits, maps, details(images))
        loss = criterion(resize(refined.float(), edges.shape[-2:]), edges)
        losses.append(descend(loss, learning, optimizer, schedule))
        follow(average, learning, share=max(0.005 if constant else 0.01, 9 / (step + 9)))
    learning.load_state_dict(average.state_dict())
    model.eval()
    return sum(losses[-50:]) / len(losses[-50:])


def descend(
    loss: Tensor,
    learning: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """A step of the weights down the loss, with clipped gradients; returns the loss."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(learning.parameters(), 5.0)
    optimizer.step()
    schedule.step()
    return loss.item()


@torch.no_grad()
def follow(average: nn.Module, learning: nn.Module, share: float) -> None:
    """Move an average of weights towards those of now."""
    for mean, now in zip(average.state_dict().values(), learning.state_dict().values()):
        mean.copy_(mean.lerp(now, share) if mean.is_floating_point() else now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "photographs", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--stages", type=int, help="of an encoder of the boundaries' own")
    parser.add_argument("--channels", type=int, default=24, help="of its details")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1e-2, help="highest learning rate")
    parser.add_argument("--constant", action="store_true", help="keep that rate, instead of one cycle up and down")
    parser.add_argument("--soft", action="store_true", help="labels are probabilities")
    args = parser.parse_args()
    torch.manual_seed(0)
    model: MultiTaskModel = demt.create_model(f"local-dir:{args.model}")
    if args.stages:
        model = with_encoder(model, args.stages, args.channels)
    loss = polish(model, args.photographs, args.steps, args.rate, args.batch, args.soft, args.constant)
    print(f"loss {loss:.4f}")
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
