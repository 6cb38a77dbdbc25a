"""Metrics as functions."""

from demt.metrics.boundary.scores import boundary_scores
from demt.metrics.functional.boundary import BoundaryCounts, boundary_counts, boundary_target

__all__ = ["BoundaryCounts", "boundary_counts", "boundary_scores", "boundary_target"]
