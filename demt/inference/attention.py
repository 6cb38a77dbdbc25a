"""Which tasks a task attends to: what `demt.ops.attention` computes without ever holding it, spelled out."""

from __future__ import annotations

import functools
import itertools
from typing import cast

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

    With softmax, the attention weights, summed over each task's tokens or points, averaged over heads. With
    ``"linear"``, which has no weights that sum to 1: the length of what each task's tokens add to the query's result
    before the output projection, over the sum of these lengths.

    Args:
        block: The block.
        x: Map (1, D, h, w) that asks.
        fused: Maps (1, T, D, h, w) that are asked.
    """
    if block.attention == "deformable":
        return _points(block, x, fused)[1].sum(2).mean(0)
    if block.attention == "window":
        found = x.new_zeros(fused.shape[1], *x.shape[-2:], dtype=torch.float32)
        for rows, columns in itertools.product(*(_windows(block, side) for side in x.shape[-2:])):
            found[:, rows, columns] = _shares_of_all(block, x[..., rows, columns], fused[..., rows, columns])
        return found
    if block.attention == "global":
        return _shares_of_all(block, x, fused)
    q, k, v = _heads(block, x, fused)
    if block.attention == "pixelwise":
        weights = torch.einsum("npd,nptd->npt", q, k).softmax(-1)
        return rearrange(weights.mean(0), "(h w) t -> t h w", h=x.shape[-2])
    added = torch.stack([q @ (k[:, :, t].mT @ v[:, :, t]) for t in range(k.shape[2])])  # (T, heads, h·w, d)
    lengths = added.square().sum((1, 3)).sqrt()
    return rearrange(_normalised(lengths, 0), "t (h w) -> t h w", h=x.shape[-2])


def attended(block: Block, x: Tensor, fused: Tensor, cell: tuple[int, int]) -> Tensor:
    """Where one pixel's query looks: the share (T, h, w) of each token of each task, which sums to 1 over all of them.

    As `shares`, but for every token. ``"pixelwise"`` looks at the pixel alone. Points of ``"deformable"`` are shared
    out among the four cells around them; what lies outside the map, where zero is read, is missing from the sum.

    Args:
        block: The block.
        x: Map (1, D, h, w) that asks.
        fused: Maps (1, T, D, h, w) that are asked.
        cell: Row and column of the pixel in the map.
    """
    row, column = cell
    found = x.new_zeros(fused.shape[1], *x.shape[-2:], dtype=torch.float32)
    if block.attention == "deformable":
        offsets, weights = (each[..., row, column] for each in _points(block, x, fused))
        return _spread(found, offsets, weights, cell)
    if block.attention == "pixelwise":
        here = (maps[..., row : row + 1, column : column + 1] for maps in (x, fused))
        found[:, row, column] = shares(block, *here)[:, 0, 0]
        return found
    rows, columns = slice(0, x.shape[-2]), slice(0, x.shape[-1])
    if block.attention == "window":
        rows, columns = (
            next(part for part in _windows(block, side) if part.start <= place < part.stop)
            for side, place in zip(x.shape[-2:], cell)
        )
        row, column = row - rows.start, column - columns.start
    x, fused = x[..., rows, columns], fused[..., rows, columns]
    q, k, v = _heads(block, x, fused)
    scores = torch.einsum("nd,nptd->npt", q[:, row * x.shape[-1] + column], k)
    if block.attention == "linear":
        lengths = (scores[..., None] * v).square().sum((0, 3)).sqrt()
        weights = _normalised(lengths.flatten(), 0).view(lengths.shape)
    else:
        weights = scores.flatten(1).softmax(-1).mean(0).view(scores.shape[1:])
    found[:, rows, columns] = rearrange(weights, "(h w) t -> t h w", h=x.shape[-2])
    return found


def _shares_of_all(block: Block, x: Tensor, fused: Tensor) -> Tensor:
    """`shares` of queries that see all tokens, some queries at a time."""
    q, k, _ = _heads(block, x, fused)
    keys = rearrange(k, "n p t d -> n (t p) d")
    rows = max(_SCORES // (keys.shape[0] * keys.shape[1]), 1)
    parts = [
        rearrange((some @ keys.mT).softmax(-1), "n p (t k) -> n p t k", t=k.shape[2]).sum(-1).mean(0)
        for some in q.split(rows, dim=1)
    ]
    return rearrange(torch.cat(parts), "(h w) t -> t h w", h=x.shape[-2])


def _windows(block: Block, side: int) -> list[slice]:
    """Where windows cut rows or columns: at shift, shift + window, …"""
    options = cast("functools.partial[Tensor]", block.attend).keywords
    window, shift = options["window"], options["shift"]
    edges = [0, *range(shift or window, side, window), side]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _points(block: Block, x: Tensor, fused: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (heads, T, points, 2, h, w) as (rows, columns), and weights (heads, T, points, h, w)."""
    asked, keys = _projected(block, x, "query"), _projected(block, fused, "key")
    found = rearrange(asked + keys, "t (n p c) h w -> n t p c h w", n=block.heads, c=3)
    weights = rearrange(found[:, :, :, 2], "n t p h w -> n (t p) h w").softmax(1)
    return found[:, :, :, :2], rearrange(weights, "n (t p) h w -> n t p h w", t=found.shape[1])


def _spread(found: Tensor, offsets: Tensor, weights: Tensor, cell: tuple[int, int]) -> Tensor:
    """Add the weights (heads, T, points) of one cell, mean over heads, to the cells that its points lie between."""
    height, width = found.shape[-2:]
    y, x = cell[0] + offsets[..., 0], cell[1] + offsets[..., 1]
    task = torch.arange(found.shape[0], device=found.device)[:, None].expand(weights.shape)
    for row, column in itertools.product((y.floor(), y.floor() + 1), (x.floor(), x.floor() + 1)):
        part = weights * (1 - (y - row).abs()) * (1 - (x - column).abs()) / len(weights)
        on_map = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        places = (task[on_map], row[on_map].long(), column[on_map].long())
        found.index_put_(places, part[on_map].to(found), accumulate=True)
    return found


def _projected(block: Block, maps: Tensor, name: str) -> Tensor:
    """Maps of the one image through the block's norm and layer of this name, at least in float32."""
    layers = [getattr(block, f"norm_{name}", torch.nn.Identity()), getattr(block, name)]
    projected = per_pixel_reference(maps, *layers)[0]
    return projected.to(torch.promote_types(projected.dtype, torch.float32))


def _heads(block: Block, x: Tensor, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (heads, h·w, d), with the scale in them, and keys and values (heads, h·w, T, d)."""
    q = rearrange(_projected(block, x, "query"), "(n d) h w -> n (h w) d", n=block.heads)
    k, v = (
        rearrange(_projected(block, fused, name), "t (n d) h w -> n (h w) t d", n=block.heads)
        for name in ("key", "value")
    )
    return q * q.shape[-1] ** -0.5, k, v


def _normalised(values: Tensor, dim: int) -> Tensor:
    """Values over their sum; equal shares where all are zero."""
    total = values.sum(dim, keepdim=True)
    return torch.where(total > 0, values / total.clamp_min(torch.finfo(values.dtype).tiny), 1 / values.shape[dim])
