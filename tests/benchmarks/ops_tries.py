"""Ways of sampling that were tried on the CPU and not kept; forward only, for one offset per channel."""

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Sampler = Callable[[Tensor, Tensor], Tensor]


def tries() -> dict[str, Sampler]:
    found: dict[str, Sampler] = {
        "padded map, four gathers": four_gathers,
        "padded map, two gathers of packed pairs": packed_pairs,
        "embedding_bag with the corners' weights": embedding_bag,
        "four gathers, compiled by inductor": torch.compile(four_gathers, fullgraph=True),
    }
    if importlib.util.find_spec("numba"):
        found |= {"numba, branches": numba_sampler(padded=False), "numba, padded map": numba_sampler(padded=True)}
    return found


def _corners(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zero-padded map, flat index of the upper left corner in it, and the weights of the lower and right ones."""
    batch, channels, height, width = x.shape
    dy, dx = offset.reshape(batch, channels, 2, height, width).unbind(2)
    py = (dy + torch.arange(1, height + 1)[:, None]).clamp(0, height + 1)
    px = (dx + torch.arange(1, width + 1)).clamp(0, width + 1)
    top, left = py.int(), px.int()
    return F.pad(x, (1, 2, 1, 2)).flatten(2), top * (width + 3) + left, py - top, px - left


def four_gathers(x: Tensor, offset: Tensor) -> Tensor:
    padded, index, wy, wx = _corners(x, offset)
    index, row = index.flatten(2).long(), x.shape[3] + 3
    a, b, c, d = (padded.gather(2, index + step).view_as(x) for step in (0, 1, row, row + 1))
    upper, lower = a + wx * (b - a), c + wx * (d - c)
    return upper + wy * (lower - upper)


def packed_pairs(x: Tensor, offset: Tensor) -> Tensor:
    padded, index, wy, wx = _corners(x, offset)
    index = index.flatten(2).long()
    pairs = torch.stack((padded[..., :-1], padded[..., 1:]), -1).view(torch.int64).squeeze(-1)
    rows = (pairs.gather(2, index + step).view(torch.float32).view(*x.shape, 2) for step in (0, x.shape[3] + 3))
    upper, lower = (each[..., 0] + wx * (each[..., 1] - each[..., 0]) for each in rows)
    return upper + wy * (lower - upper)


def embedding_bag(x: Tensor, offset: Tensor) -> Tensor:
    padded, index, wy, wx = _corners(x, offset)
    planes = torch.arange(padded.shape[0] * padded.shape[1], dtype=torch.int32) * padded.shape[2]
    index = index + planes.view(*padded.shape[:2], 1, 1)
    row = x.shape[3] + 3
    bags = torch.stack((index, index + 1, index + row, index + row + 1), -1).view(-1, 4)
    weights = torch.stack(((1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx), -1).view(-1, 4)
    return F.embedding_bag(bags, padded.reshape(-1, 1), per_sample_weights=weights, mode="sum").view_as(x)


def numba_sampler(padded: bool) -> Sampler:
    import numba
    import numpy as np

    one, zero = np.float32(1), np.float32(0)

    @numba.njit(parallel=True, fastmath=True)
    def branches(x, offset, y):
        maps, height, width = x.shape
        for n in numba.prange(maps):
            for i in range(height):
                for j in range(width):
                    py, px = i + offset[n, 0, i, j], j + offset[n, 1, i, j]
                    y[n, i, j] = 0
                    if -1 < py < height and -1 < px < width:
                        top, left = np.int32(np.floor(py)), np.int32(np.floor(px))
                        wy, wx = py - top, px - left
                        a = x[n, top, left] if top >= 0 and left >= 0 else zero
                        b = x[n, top, left + 1] if top >= 0 and left + 1 < width else zero
                        c = x[n, top + 1, left] if top + 1 < height and left >= 0 else zero
                        d = x[n, top + 1, left + 1] if top + 1 < height and left + 1 < width else zero
                        upper, lower = a + wx * (b - a), c + wx * (d - c)
                        y[n, i, j] = upper + wy * (lower - upper)

    @numba.njit(parallel=True, fastmath=True)
    def padding(x, offset, y):
        maps, height, width = x.shape
        row = width + 3
        for n in numba.prange(maps):
            flat = np.zeros((height + 3) * row, np.float32)
            for i in range(height):
                for j in range(width):
                    flat[(i + 1) * row + j + 1] = x[n, i, j]
            for i in range(height):
                for j in range(width):
                    py = max(min(np.float32(i) + offset[n, 0, i, j] + one, np.float32(height + 1)), zero)
                    px = max(min(np.float32(j) + offset[n, 1, i, j] + one, np.float32(width + 1)), zero)
                    top, left = np.int32(py), np.int32(px)
                    wy, wx = py - np.float32(top), px - np.float32(left)
                    at = top * np.int32(row) + left
                    a, b = flat[np.uint32(at)], flat[np.uint32(at + 1)]
                    c, d = flat[np.uint32(at + row)], flat[np.uint32(at + row + 1)]
                    upper, lower = a + wx * (b - a), c + wx * (d - c)
                    y[n, i, j] = upper + wy * (lower - upper)

    kernel = padding if padded else branches

    def sampler(x: Tensor, offset: Tensor) -> Tensor:
        numba.set_num_threads(torch.get_num_threads())
        y, (_, _, height, width) = torch.empty_like(x), x.shape
        maps = (each.reshape(-1, *shape) for each, shape in ((x, (height, width)), (y, (height, width))))
        source, target = (each.numpy() for each in maps)
        kernel(source, offset.reshape(-1, 2, height, width).numpy(), target)
        return y

    return sampler
