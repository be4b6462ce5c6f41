"""Metrics: overlap on device; surfaces, lesions, instances, curves, calibration, made images on the host; statistics.

What each metric is where a mask is empty (P predicted, T true; "absent" is empty):

| metric                          | T absent, P absent | T absent, P present | T present, P absent |
|---------------------------------|--------------------|---------------------|---------------------|
| dice, iou, precision, recall    | NaN                | 0                   | 0                   |
| specificity                     | NaN                | TN / (TN + FP)      | 1                   |
| hausdorff, hausdorff95, assd    | NaN                | inf                 | inf                 |
| surface_dice                    | NaN                | 0                   | 0                   |
| lesion f1, precision, recall    | NaN                | 0                   | 0                   |
| instance f1, pq, aji, dsb_score | NaN                | 0                   | 0                   |

`aggregate` leaves NaN out of means and counts it in n_excluded; it counts infinite distances in n_infinite, keeps them
out of means and within medians. So a missed or an invented object is never dropped silently.
"""

from collections.abc import Callable

from jaxseg.metrics.aggregate import aggregate, bootstrap_interval, finite_mean, summarise
from jaxseg.metrics.calibration import (
    CalibrationCounts,
    Correlation,
    RiskCoverage,
    brier_score,
    calibration_counts,
    correlation,
    correlation_interval,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    risk_coverage,
)
from jaxseg.metrics.calibration import (
    add as add_calibration,
)
from jaxseg.metrics.cases import case_rows
from jaxseg.metrics.compare import compare
from jaxseg.metrics.curves import precision_recall_area, precision_recall_curve, roc_area, roc_curve
from jaxseg.metrics.detection import average_precision_at, coco_average_precision, mask_boxes
from jaxseg.metrics.image_quality import (
    Neighbours,
    frechet_distance,
    histogram_matching,
    kernel_distance,
    mean_absolute_error,
    memorisation_ratio,
    nearest_neighbours,
    peak_signal_to_noise,
    structural_similarity,
)
from jaxseg.metrics.instances import (
    aggregated_jaccard,
    dsb_score,
    f1_at,
    instance_counts,
    instance_rows,
    panoptic_quality,
    precision_at,
    recall_at,
)
from jaxseg.metrics.instances import match as match_instances
from jaxseg.metrics.lesion import lesion_f1, lesion_scores
from jaxseg.metrics.overlap import (
    confusion,
    counts_to_accuracy,
    counts_to_dice,
    counts_to_iou,
    counts_to_precision,
    counts_to_recall,
    counts_to_specificity,
    dice,
    iou,
    precision,
    recall,
    region_confusion,
    specificity,
)
from jaxseg.metrics.surface import (
    average_surface_distance,
    hausdorff,
    hausdorff95,
    mean_distance,
    percentile_distance,
    surface_dice,
    surface_distances,
    within_tolerance,
)
from jaxseg.registry import build

TABLE = {
    "dice": "jaxseg.metrics.overlap:dice",
    "iou": "jaxseg.metrics.overlap:iou",
    "precision": "jaxseg.metrics.overlap:precision",
    "recall": "jaxseg.metrics.overlap:recall",
    "specificity": "jaxseg.metrics.overlap:specificity",
    "hausdorff": "jaxseg.metrics.surface:hausdorff",
    "hausdorff95": "jaxseg.metrics.surface:hausdorff95",
    "average_surface_distance": "jaxseg.metrics.surface:average_surface_distance",
    "surface_dice": "jaxseg.metrics.surface:surface_dice",
    "lesion_f1": "jaxseg.metrics.lesion:lesion_f1",
    "roc_area": "jaxseg.metrics.curves:roc_area",
    "precision_recall_area": "jaxseg.metrics.curves:precision_recall_area",
    "coco_average_precision": "jaxseg.metrics.detection:coco_average_precision",
    "average_precision_at": "jaxseg.metrics.detection:average_precision_at",
    "dsb_score": "jaxseg.metrics.instances:dsb_score",
    "panoptic_quality": "jaxseg.metrics.instances:panoptic_quality",
    "aggregated_jaccard": "jaxseg.metrics.instances:aggregated_jaccard",
    "mean_absolute_error": "jaxseg.metrics.image_quality:mean_absolute_error",
    "peak_signal_to_noise": "jaxseg.metrics.image_quality:peak_signal_to_noise",
    "structural_similarity": "jaxseg.metrics.image_quality:structural_similarity",
    "frechet_distance": "jaxseg.metrics.image_quality:frechet_distance",
    "kernel_distance": "jaxseg.metrics.image_quality:kernel_distance",
}


def names() -> list[str]:
    """Returns the metrics that `from_string` knows."""
    return sorted(TABLE)


def from_string(text: str) -> Callable:
    """Returns the metric with its options bound, of a name or a call such as "surface_dice(tolerance_mm=2.0)"."""
    return build(text, TABLE, kind="metric")


__all__ = [
    "CalibrationCounts",
    "Correlation",
    "Neighbours",
    "RiskCoverage",
    "add_calibration",
    "aggregate",
    "aggregated_jaccard",
    "average_precision_at",
    "average_surface_distance",
    "bootstrap_interval",
    "brier_score",
    "calibration_counts",
    "case_rows",
    "coco_average_precision",
    "compare",
    "confusion",
    "correlation",
    "correlation_interval",
    "counts_to_accuracy",
    "counts_to_dice",
    "counts_to_iou",
    "counts_to_precision",
    "counts_to_recall",
    "counts_to_specificity",
    "dice",
    "dsb_score",
    "expected_calibration_error",
    "f1_at",
    "finite_mean",
    "frechet_distance",
    "from_string",
    "hausdorff",
    "hausdorff95",
    "histogram_matching",
    "instance_counts",
    "instance_rows",
    "iou",
    "kernel_distance",
    "lesion_f1",
    "lesion_scores",
    "mask_boxes",
    "match_instances",
    "maximum_calibration_error",
    "mean_absolute_error",
    "mean_distance",
    "memorisation_ratio",
    "names",
    "nearest_neighbours",
    "negative_log_likelihood",
    "panoptic_quality",
    "peak_signal_to_noise",
    "percentile_distance",
    "precision",
    "precision_at",
    "precision_recall_area",
    "precision_recall_curve",
    "recall",
    "recall_at",
    "region_confusion",
    "risk_coverage",
    "roc_area",
    "roc_curve",
    "specificity",
    "structural_similarity",
    "summarise",
    "surface_dice",
    "surface_distances",
    "within_tolerance",
]
