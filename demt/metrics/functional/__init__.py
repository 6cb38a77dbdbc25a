"""The maths of the metrics: functions of tensors that hold no state."""

from demt.metrics.boundary.scores import boundary_scores
from demt.metrics.functional.boundary import BoundaryCounts, boundary_counts, boundary_target
from demt.metrics.functional.depth import DepthSums, depth_errors, depth_sums
from demt.metrics.functional.gain import delta_m
from demt.metrics.functional.normals import angular_errors, median_from_histogram
from demt.metrics.functional.saliency import f_measure, threshold_counts
from demt.metrics.functional.segmentation import confusion_matrix, iou_per_class, mean_iou

__all__ = [
    "BoundaryCounts",
    "DepthSums",
    "angular_errors",
    "boundary_counts",
    "boundary_scores",
    "boundary_target",
    "confusion_matrix",
    "delta_m",
    "depth_errors",
    "depth_sums",
    "f_measure",
    "iou_per_class",
    "mean_iou",
    "median_from_histogram",
    "threshold_counts",
]
