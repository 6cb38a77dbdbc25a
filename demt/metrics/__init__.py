"""Metrics of multi-task dense prediction."""

from demt.metrics.boundary.metric import BoundaryScore
from demt.metrics.boundary.scores import BoundaryScores

__all__ = ["BoundaryScore", "BoundaryScores"]
