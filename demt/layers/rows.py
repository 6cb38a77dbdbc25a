"""Per-pixel functions of large maps, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: Pixels at a time: on a CPU what its caches hold (4 MB a map of width 256), elsewhere what bounds the memory.
PIXELS = {"cpu": 1 << 12}
PIXELS_ELSEWHERE = 1 << 17


def by_rows(
    function: Callable[..., Sequence[Tensor]], maps: Sequence[Tensor], owner: nn.Module, *, reuse: Sequence[Tensor] = ()
) -> Sequence[Tensor]:
    """`function(*maps)`, of maps (B, C, H, W) in which no pixel sees another, computed some rows at a time.

    The numbers are the same, intermediate maps stay in the processor's cache, and none of full size is allocated.
    While a graph is recorded, in training mode (batch norm sees all pixels) and where somebody looks at the modules
    with hooks, the function gets the maps whole.

    Args:
        owner: The module whose forward this is.
        reuse: Maps, one a result, whose memory the results may overwrite.
    """
    height = maps[0].shape[-2]
    rows = _rows(maps[0])
    if rows >= height or _whole(owner):
        return function(*maps)
    results: list[Tensor] = []
    for top in range(0, height, rows):
        block = function(*(each[..., top : top + rows, :] for each in maps))
        if not results:
            results = [_room(z, height, reuse[i] if reuse else None) for i, z in enumerate(block)]
        for result, z in zip(results, block):
            result[..., top : top + rows, :] = z
    return results


def _rows(x: Tensor) -> int:
    return max(PIXELS.get(x.device.type, PIXELS_ELSEWHERE) // max(x.shape[0] * x.shape[-1], 1), 1)


def _whole(owner: nn.Module) -> bool:
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return recorded or owner.training or any(m._forward_hooks or m._forward_pre_hooks for m in owner.modules())


def _room(block: Tensor, height: int, old: Tensor | None) -> Tensor:
    size = (*block.shape[:2], height, block.shape[-1])
    if old is not None and old.shape == size and old.dtype == block.dtype:
        return old
    return block.new_empty(size)
