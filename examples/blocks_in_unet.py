"""demt's blocks in your own U-Net, for two tasks: which shape is where, and how far away it is.

Trains for a few seconds on pictures that it draws: ``python examples/blocks_in_unet.py``. Discs and squares lie over a
dark background, nearer ones in front and brighter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demt.layers import (
    DeformableMixer,
    GatingAttention,
    LinearNeck,
    TaskHead,
    TaskInteractionBlock,
    TaskQueryBlock,
)
from demt.losses import MultiTaskLoss

TASKS = {"semseg": 3, "depth": 1}
FARTHEST = 5.0


def convolutions(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class TwoTaskUNet(nn.Module):
    """A U-Net whose decoder maps feed demt's multi-task decoder. Images (B, 3, H, W) to logits per task.

    Args:
        width: Channels at full resolution, and of the maps of all tasks.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1 = convolutions(3, width)
        self.down2 = convolutions(width, 2 * width, stride=2)
        self.down3 = convolutions(2 * width, 4 * width, stride=2)
        self.up2 = convolutions(6 * width, 2 * width)
        self.up1 = convolutions(3 * width, width)
        self.neck = LinearNeck([width, 2 * width, 4 * width], width)
        self.mixers = nn.ModuleDict({name: DeformableMixer(width, initial_offsets="zero") for name in TASKS})
        self.interaction = TaskInteractionBlock(width)
        self.queries = nn.ModuleDict({name: TaskQueryBlock(width) for name in TASKS})
        self.gating = GatingAttention(width)
        self.heads = nn.ModuleDict({name: TaskHead(width, channels) for name, channels in TASKS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.down1(images)
        middle = self.down2(fine)
        coarse = self.down3(middle)
        middle = self.up2(join(middle, coarse))
        fine = self.up1(join(fine, middle))
        neck = self.neck([fine, middle, coarse])
        mixed = {name: mixer(neck) for name, mixer in self.mixers.items()}
        fused = self.interaction(torch.stack(list(mixed.values()), dim=1))
        return {name: self.heads[name](self.gating(self.queries[name](x, fused))) for name, x in mixed.items()}


def join(fine: Tensor, coarse: Tensor) -> Tensor:
    """Both maps at the finer one's size, one behind the other."""
    return torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)], dim=1)


def make_batch(count: int = 6, size: int = 40) -> tuple[Tensor, dict[str, Tensor]]:
    """Images (B, 3, S, S) of four shapes each, classes (B, S, S) and distances (B, 1, S, S) in metres."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = torch.zeros(count, 3, size, size)
    classes = torch.zeros(count, size, size, dtype=torch.long)
    depth = torch.full((count, 1, size, size), FARTHEST)
    for i in range(count):
        for distance in (torch.rand(4) * 3 + 1).sort(descending=True).values:
            row, column = torch.randint(size, (2,))
            radius, shape = torch.randint(5, 11, ()), int(torch.randint(1, 3, ()))
            across, along = rows - row, columns - column
            if shape == 1:
                inside = across**2 + along**2 <= radius**2
            else:
                inside = torch.maximum(across.abs(), along.abs()) <= radius
            images[i, :, inside] = (1 - distance / FARTHEST) * (0.5 + 0.5 * torch.rand(3, 1))
            classes[i, inside], depth[i, :, inside] = shape, distance
    return images + 0.02 * torch.randn_like(images), {"semseg": classes, "depth": depth}


def main(steps: int = 41) -> list[float]:
    """Train, print the losses, and return the total loss of each step."""
    torch.manual_seed(0)
    model, criterion = TwoTaskUNet(), MultiTaskLoss(TASKS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(steps):
        images, targets = make_batch()
        loss = criterion(model(images), targets)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        history.append(loss.total.item())
        if step % 10 == 0:
            parts = ", ".join(f"{name} {part.item():.3f}" for name, part in loss.parts.items())
            print(f"step {step}: total {history[-1]:.3f} ({parts})")
    return history


if __name__ == "__main__":
    main()
