"""Deformable sampling and linear maps as functions: one clear reference, the fast paths, one dispatcher."""

from demt.ops.dispatch import Path, best_path
from demt.ops.linear import linear
from demt.ops.mixing import deform_mix
from demt.ops.reference import deform_mix_reference, deform_sample_reference
from demt.ops.sampling import deform_sample

__all__ = [
    "Path",
    "best_path",
    "deform_mix",
    "deform_mix_reference",
    "deform_sample",
    "deform_sample_reference",
    "linear",
]
