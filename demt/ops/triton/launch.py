"""Launches the GPU kernels of `deform_mix`, with block sizes tried out once per number of channels and type."""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from demt.ops.triton import kernels

# Triton's interpreter runs on the CPU, where there is nothing to tune and small tiles keep a test short.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

TAPS_AT_A_TIME, ALL_TAPS = 32, 128
PRODUCT_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def _configs(*blocks: tuple[int, int, int]) -> list[triton.Config]:
    """Tiles of channels and pixels, and warps: those that leave no or few registers to spill on compute 8.0 and 9.0."""
    if INTERPRETED:
        return [triton.Config({"BLOCK_C": 16, "BLOCK_P": 32})]
    return [triton.Config({"BLOCK_C": c, "BLOCK_P": p}, num_warps=warps, num_stages=2) for c, p, warps in blocks]


_forward: Any = triton.autotune(
    _configs((16, 32, 4), (16, 32, 8), (32, 32, 8), (32, 64, 8)),
    key=["C", "D"],
)(kernels.forward_kernel)

_backward: Any = triton.autotune(
    _configs((16, 32, 4), (16, 32, 8), (32, 64, 8)),
    key=["C"],
    # Every trial adds to these sums.
    reset_to_zero=["grad_x", "grad_hidden", "grad_offset_weight", "grad_offset_bias"],
)(kernels.backward_kernel)


def deform_mix_forward(
    x: Tensor, hidden: Tensor, offset_weight: Tensor, offset_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`demt.ops.deform_mix` of validated arguments that `triton_obstacle` has nothing against."""
    batch, channels, height, width = x.shape
    out = x.new_empty(batch, weight.shape[0], height, width)
    block_d = min(256, max(16, triton.next_power_of_2(weight.shape[0])))
    tensors = (each.contiguous() for each in (x, hidden, offset_weight, offset_bias, weight, bias))

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(height * width, meta["BLOCK_P"]), batch, triton.cdiv(weight.shape[0], block_d)

    with torch.cuda.device_of(x):
        _forward[grid](
            *tensors, out, channels, weight.shape[0], height, width,
            BLOCK_D=block_d, BLOCK_K=TAPS_AT_A_TIME,
            # The interpreter's products know no bfloat16.
            PRODUCT=tl.float32 if INTERPRETED else PRODUCT_DTYPES[x.dtype],
            TF32=torch.backends.cuda.matmul.allow_tf32,
        )  # fmt: skip
    return out


def deform_mix_backward(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    offset_weight: Tensor,
    offset_bias: Tensor,
    weight: Tensor,
    need_sampling: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, hidden, offset_weight, offset_bias and weight, whether needed or not.

    The kernel gives the first four and, for the last, the samples.
    """
    batch, channels, height, width = x.shape
    grad = grad.contiguous()
    grad_sampled = torch.matmul(weight.mT, grad.flatten(2))
    x, hidden, offset_weight, offset_bias = (each.contiguous() for each in (x, hidden, offset_weight, offset_bias))
    sums = [torch.zeros_like(each, dtype=torch.float32) for each in (x, hidden, offset_weight, offset_bias)]
    sampled = torch.empty_like(x)
    # Enough programs to fill a GPU, few enough that adding up the offset weights' gradient costs little.
    tiles = 2 if INTERPRETED else 8

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        blocks = 2 * triton.cdiv(channels // 2, meta["BLOCK_C"])
        return triton.cdiv(height * width, meta["BLOCK_P"] * tiles), batch, blocks

    with torch.cuda.device_of(x):
        _backward[grid](
            grad_sampled, x, hidden, offset_weight, offset_bias, sampled, *sums, channels, height, width, tiles,
            BLOCK_K=TAPS_AT_A_TIME, ALL_K=ALL_TAPS,
        )  # fmt: skip
    grad_weight = torch.matmul(grad.flatten(2), sampled.flatten(2).mT).sum(0)
    grad_x, grad_hidden, grad_offset_weight, grad_offset_bias = (
        each.to(like.dtype) for each, like in zip(sums, (x, hidden, offset_weight, offset_bias))
    )
    return grad_x, grad_hidden, grad_offset_weight, grad_offset_bias, grad_weight
