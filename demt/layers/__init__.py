"""Building blocks, each usable on its own: maps in, maps out, any width, any number of tasks, any size from 1×1."""

from collections.abc import Callable, Sequence

from demt.layers.blocks import (
    ChannelMixer,
    DeformableMixer,
    DeformableMixerBlock,
    GatingAttention,
    SpatialDeformable,
    TaskHead,
    TaskInteractionBlock,
    TaskQueryBlock,
)
from demt.layers.necks import LinearNeck, Neck, PatchNeck, TapNeck
from demt.layers.pyramids import DPTNeck, FaPNNeck, FPNNeck, PPMNeck
from demt.layers.refinement import DetailPyramid, DetailRefinement, DetailStem

#: Necks by the names that a model's configuration has for them (`demt.config.NeckName`).
NECKS: dict[str, Callable[[Sequence[int], int], Neck]] = {
    "linear": LinearNeck,
    "patch": PatchNeck,
    "taps": TapNeck,
    "fpn": FPNNeck,
    "ppm": PPMNeck,
    "fapn": FaPNNeck,
    "dpt": DPTNeck,
}

__all__ = [
    "NECKS",
    "ChannelMixer",
    "DPTNeck",
    "DeformableMixer",
    "DeformableMixerBlock",
    "DetailPyramid",
    "DetailRefinement",
    "DetailStem",
    "FPNNeck",
    "FaPNNeck",
    "GatingAttention",
    "LinearNeck",
    "PPMNeck",
    "PatchNeck",
    "SpatialDeformable",
    "TapNeck",
    "TaskHead",
    "TaskInteractionBlock",
    "TaskQueryBlock",
]
