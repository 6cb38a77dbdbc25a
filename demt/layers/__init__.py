"""Building blocks, each usable alone: maps in, maps out, any width, any number of tasks, any size from 1×1."""

from demt.layers.deformable import SpatialDeformable
from demt.layers.gating import GatingAttention
from demt.layers.head import TaskHead
from demt.layers.interaction import TaskInteractionBlock
from demt.layers.mixer import ChannelMixer, DeformableMixer
from demt.layers.neck import LinearNeck, PatchNeck, TapNeck
from demt.layers.query import TaskQueryBlock, token_gram

__all__ = [
    "ChannelMixer",
    "DeformableMixer",
    "GatingAttention",
    "LinearNeck",
    "PatchNeck",
    "SpatialDeformable",
    "TapNeck",
    "TaskHead",
    "TaskInteractionBlock",
    "TaskQueryBlock",
    "token_gram",
]
