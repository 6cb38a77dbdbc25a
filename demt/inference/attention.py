"""Which tasks a task attends to: what `demt.ops.attention` computes without ever holding it, spelled out."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from demt.layers import TaskInteractionBlock, TaskQueryBlock
from demt.ops.reference import per_pixel_reference

#: Scores held at a time, where all pixels attend to all.
_SCORES = 1 << 24

Block = TaskInteractionBlock | TaskQueryBlock


def shares(block: Block, x: Tensor, fused: Tensor) -> Tensor:
    """How much each pixel's query takes from each task: (T, h, w), which sums to 1 over T at every pixel.

    With softmax, the attention weights, summed over each task's tokens, averaged over heads. With ``"linear"``, which
    has no weights that sum to 1: the length of what each task's tokens add to the query's result before the output
    projection, over the sum of these lengths.

    Args:
        block: The block.
        x: Map (1, D, h, w) that asks.
        fused: Maps (1, T, D, h, w) that are asked.
    """
    q, k, v = _heads(block, x, fused)
    count, height, width = k.shape[2], x.shape[-2], x.shape[-1]
    if block.attention == "pixelwise":
        weights = torch.einsum("npd,nptd->npt", q, rearrange(k, "n p t d -> n p t d")).softmax(-1)
        return rearrange(weights.mean(0), "(h w) t -> t h w", h=height)
    if block.attention == "linear":
        added = torch.stack([q @ (k[:, :, t].mT @ v[:, :, t]) for t in range(count)])  # (T, n, p, d)
        lengths = added.square().sum((1, 3)).sqrt()
        return rearrange(_normalised(lengths, 0), "t (h w) -> t h w", h=height)
    keys = rearrange(k, "n p t d -> n (t p) d")
    rows = max(_SCORES // (keys.shape[0] * keys.shape[1]), 1)
    parts = []
    for start in range(0, height * width, rows):
        weights = (q[:, start : start + rows] @ keys.mT).softmax(-1)
        parts.append(rearrange(weights, "n p (t k) -> n p t k", t=count).sum(-1).mean(0))
    return rearrange(torch.cat(parts), "(h w) t -> t h w", h=height)


def attended(block: Block, x: Tensor, fused: Tensor, cell: tuple[int, int]) -> Tensor:
    """Where one pixel's query looks: the share (T, h, w) of each token of each task, which sums to 1 over all of them.

    As `shares`, but for every token; ``"pixelwise"`` looks at the pixel alone.

    Args:
        block: The block.
        x: Map (1, D, h, w) that asks.
        fused: Maps (1, T, D, h, w) that are asked.
        cell: Row and column of the pixel in the map.
    """
    height, width = x.shape[-2:]
    if block.attention == "pixelwise":
        row, column = cell
        found = shares(block, *(maps[..., row : row + 1, column : column + 1] for maps in (x, fused)))
        weights = found.new_zeros(fused.shape[1], height, width)
        weights[:, row, column] = found[:, 0, 0]
        return weights
    q, k, v = _heads(block, x, fused)
    asked = q[:, cell[0] * width + cell[1]]
    scores = torch.einsum("nd,nptd->npt", asked, k)
    if block.attention == "linear":
        lengths = (scores[..., None] * v).square().sum((0, 3)).sqrt()
        weights = _normalised(lengths.flatten(), 0).view(lengths.shape)
    else:
        weights = scores.flatten(1).softmax(-1).mean(0).view(scores.shape[1:])
    return rearrange(weights, "(h w) t -> t h w", h=height)


def _heads(block: Block, x: Tensor, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (heads, h·w, d), with the scale in them, and keys and values (heads, h·w, T, d), at least in float32."""

    def project(maps: Tensor, name: str) -> Any:
        layers = [getattr(block, f"norm_{name}", torch.nn.Identity()), getattr(block, name)]
        projected = per_pixel_reference(maps, *layers)[0]
        return projected.to(torch.promote_types(projected.dtype, torch.float32))

    q = rearrange(project(x, "query"), "(n d) h w -> n (h w) d", n=block.heads)
    k, v = (rearrange(project(fused, name), "t (n d) h w -> n (h w) t d", n=block.heads) for name in ("key", "value"))
    return q * q.shape[-1] ** -0.5, k, v


def _normalised(values: Tensor, dim: int) -> Tensor:
    """Values over their sum; equal shares where all are zero."""
    total = values.sum(dim, keepdim=True)
    return torch.where(total > 0, values / total.clamp_min(torch.finfo(values.dtype).tiny), 1 / values.shape[dim])
