"""Building blocks, each usable alone: maps in, maps out, any width, any number of tasks, any size from 1×1."""

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
from demt.layers.necks import LinearNeck, PatchNeck, TapNeck

__all__ = [
    "ChannelMixer",
    "DeformableMixer",
    "DeformableMixerBlock",
    "GatingAttention",
    "LinearNeck",
    "PatchNeck",
    "SpatialDeformable",
    "TapNeck",
    "TaskHead",
    "TaskInteractionBlock",
    "TaskQueryBlock",
]
