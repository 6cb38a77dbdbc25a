"""What the layers compute, as functions written for speed, each beside a plain one in `demt.ops.reference`."""

from demt.ops.attention import global_attention, linear_attention, pixel_attention, pixel_attentions
from demt.ops.deform import deform_mix, deform_sample, float32_convolution
from demt.ops.deformable_attention import deformable_attention, points_on_rays
from demt.ops.dispatch import Path, best_path
from demt.ops.flops import register_formulas
from demt.ops.interact import Query, interact_and_query, tasks_together
from demt.ops.pointwise import by_rows, linear, per_pixel, stack_tasks
from demt.ops.reference import (
    attention_reference,
    convolve_levels_reference,
    deform_mix_reference,
    deform_sample_reference,
    deformable_attention_reference,
    interact_and_query_reference,
    narrow_convolution_reference,
    per_pixel_reference,
    project_levels_reference,
    window_attention_reference,
)
from demt.ops.resize import convolve_levels, project_levels, resize
from demt.ops.taps import narrow_convolution
from demt.ops.window_attention import window_attention

register_formulas()

__all__ = [
    "Path",
    "Query",
    "attention_reference",
    "best_path",
    "by_rows",
    "convolve_levels",
    "convolve_levels_reference",
    "deform_mix",
    "deform_mix_reference",
    "deform_sample",
    "deform_sample_reference",
    "deformable_attention",
    "deformable_attention_reference",
    "float32_convolution",
    "global_attention",
    "interact_and_query",
    "interact_and_query_reference",
    "linear",
    "linear_attention",
    "narrow_convolution",
    "narrow_convolution_reference",
    "per_pixel",
    "per_pixel_reference",
    "pixel_attention",
    "pixel_attentions",
    "points_on_rays",
    "project_levels",
    "project_levels_reference",
    "resize",
    "stack_tasks",
    "tasks_together",
    "window_attention",
    "window_attention_reference",
]
