"""Metrics of the built-in tasks, separately or all at once."""

from demt.metrics.boundary.metric import BoundaryScore
from demt.metrics.boundary.scores import BoundaryScores
from demt.metrics.depth import DepthMetrics, RootMeanSquaredError
from demt.metrics.edges import EdgeMetrics
from demt.metrics.functional.gain import delta_m
from demt.metrics.multitask import MultiTaskMetrics
from demt.metrics.normals import NormalsMetrics
from demt.metrics.saliency import MaxF
from demt.metrics.segmentation import MeanIoU
from demt.metrics.wrappers import ValidPixels
from demt.plugins import register_metric
from demt.protocols import PROTOCOLS, Protocol, get_protocol

__all__ = [
    "PROTOCOLS",
    "BoundaryScore",
    "BoundaryScores",
    "DepthMetrics",
    "EdgeMetrics",
    "MaxF",
    "MeanIoU",
    "MultiTaskMetrics",
    "NormalsMetrics",
    "Protocol",
    "RootMeanSquaredError",
    "ValidPixels",
    "delta_m",
    "get_protocol",
    "register_metric",
]
