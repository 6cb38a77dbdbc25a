"""Deformable sampling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def deform_sample(x: Tensor, offset: Tensor) -> Tensor:
    """Sample x (B, C, H, W) bilinearly at each pixel plus offset (B, 2G, H, W), zero outside the map."""
    batch, channels, height, width = x.shape
    groups = offset.shape[1] // 2
    if x.numel() == 0:
        return x
    rows = torch.arange(height, device=x.device, dtype=offset.dtype)[:, None]
    columns = torch.arange(width, device=x.device, dtype=offset.dtype)
    offset = offset.reshape(batch * groups, 2, height, width)
    y = (offset[:, 0] + rows) * (2 / height) + (1 / height - 1)
    xx = (offset[:, 1] + columns) * (2 / width) + (1 / width - 1)
    maps = x.reshape(batch * groups, channels // groups, height, width)
    return F.grid_sample(maps, torch.stack([xx, y], -1), align_corners=False).reshape(x.shape)
