"""What counters of FLOPs (`torch.utils.flop_counter` and what stands on it) count for operators they do not know."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count


def _mix_flops(x: Any, hidden: Any, offset_weight: Any, offset_bias: Any, weight: Any, *_: Any, **__: Any) -> int:
    batch, channels, height, width = x
    return int(2 * batch * height * width * (math.prod(offset_weight) + 4 * channels + math.prod(weight)))


def _mix_backward_flops(
    grad: Any, x: Any, hidden: Any, offset_weight: Any, bias: Any, weight: Any, *_: Any, **__: Any
) -> int:
    # Offsets and samples once more, then the gradients: two products for each of the forward pass.
    return 3 * _mix_flops(x, hidden, offset_weight, bias, weight) - 2 * x[0] * x[2] * x[3] * math.prod(weight)


def _sample_flops(x: Any, offset: Any, *_: Any, **__: Any) -> int:
    return int(2 * math.prod(x) * 4)


def _sample_backward_flops(grad: Any, x: Any, offset: Any, *_: Any, **__: Any) -> int:
    return 2 * _sample_flops(x, offset)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def register_formulas() -> None:
    """Tell torch's counter what the operators of `demt.ops.deform` cost: four multiply-adds a sample."""
    register_flop_formula(torch.ops.demt.deform_mix)(_mix_flops)
    register_flop_formula(torch.ops.demt.deform_mix_backward)(_mix_backward_flops)
    register_flop_formula(torch.ops.demt.deform_sample)(_sample_flops)
    register_flop_formula(torch.ops.demt.deform_sample_backward)(_sample_backward_flops)
    # The counter knows the fused attention of GPUs, but in some versions not that of CPUs.
    for operator, formula in (
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, _attention_flops),
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward, _attention_backward_flops),
    ):
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)
