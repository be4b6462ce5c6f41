"""All metrics of one case: one row a class, on the original grid of the labels, on the host.

Pixels that may not count (IGNORE in the truth, or outside the region of interest) are left out of every count; surfaces
and lesions are taken after removing them from both maps. Conventions for empty masks: the table in `jaxseg.metrics`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from jaxseg.metrics import overlap
from jaxseg.metrics.lesion import lesion_scores
from jaxseg.metrics.surface import mean_distance, percentile_distance, surface_distances, within_tolerance
from jaxseg.typing import IGNORE, UserError

Row = dict[str, Any]
LabelMap = Integer[np.ndarray, "*S"] | Bool[np.ndarray, "*S"]
OVERLAPS = {
    "dice": overlap.counts_to_dice,
    "iou": overlap.counts_to_iou,
    "precision": overlap.counts_to_precision,
    "recall": overlap.counts_to_recall,
    "specificity": overlap.counts_to_specificity,
}
METRICS = (*OVERLAPS, "hd95_mm", "assd_mm", "nsd", "lesion_f1", "volume_true_ml", "volume_pred_ml")


def case_rows(
    pred: LabelMap,
    true: LabelMap,
    *,
    classes: Sequence[str],
    spacing_mm: Sequence[float],
    tolerance_mm: float | Sequence[float] = 1.0,
    roi: Bool[np.ndarray, "*S"] | None = None,
    skip_surface: bool = False,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> list[Row]:
    """Returns one row a foreground class: class, dice, iou, precision, recall, specificity, hd95_mm, assd_mm, nsd,
    lesion_f1, volume_true_ml, volume_pred_ml, in this order.

    Distances follow the "voxel" convention (`jaxseg.metrics.surface`), in mm; volumes are in millilitres, a 2D image
    counting as a slice 1 mm thick.

    Args:
      pred: predicted class ids, 2D or 3D.
      true: true class ids; IGNORE where a pixel may not count.
      classes: names by id, background first.
      spacing_mm: voxel size along each axis, in array order.
      tolerance_mm: of the surface Dice; one number, or one a row.
      roi: False where a pixel may not count.
      skip_surface: leaves out the keys hd95_mm, assd_mm and nsd, the slow ones.
      regions: name -> class ids that make it up; its rows take the place of the classes' rows.

    Raises:
      UserError: shapes, labels, spacing or tolerances do not fit.
    """
    pred, true = np.asarray(pred), np.asarray(true)
    named = {name: (label,) for label, name in enumerate(classes) if label} if regions is None else dict(regions)
    _check_names(classes, named)
    tolerances = np.atleast_1d(np.asarray(tolerance_mm, np.float64))
    if np.ndim(tolerance_mm) == 0:
        tolerances = np.broadcast_to(tolerances, len(named))
    if len(tolerances) != len(named) or not all(tolerance >= 0 for tolerance in tolerances):
        raise UserError(f"tolerance_mm should be one number, or one for each of {list(named)}, not {tolerance_mm}.")
    _check_maps(pred, true, tuple(spacing_mm), len(classes), roi)
    counted = true != IGNORE if roi is None else (true != IGNORE) & np.asarray(roi, bool)
    table = _confusion(pred[counted], true[counted], len(classes))
    millilitres = float(np.prod(spacing_mm)) / 1000
    rows = []
    for (name, ids), tolerance in zip(named.items(), tolerances):
        counts = _one_against_rest(table, ids)
        row: Row = {"class": name}
        row |= {metric: float(ratio(counts)[0]) for metric, ratio in OVERLAPS.items()}
        pred_mask, true_mask = np.isin(pred, ids) & counted, np.isin(true, ids) & counted
        if not skip_surface:
            row |= _surface_columns(pred_mask, true_mask, tuple(spacing_mm), float(tolerance))
        row["lesion_f1"] = float(lesion_scores(pred_mask, true_mask).f1)
        row["volume_true_ml"] = float(counts[1].sum()) * millilitres
        row["volume_pred_ml"] = float(counts[:, 1].sum()) * millilitres
        rows.append(row)
    return rows


def _surface_columns(
    pred_mask: Bool[np.ndarray, "*S"], true_mask: Bool[np.ndarray, "*S"], spacing: tuple[float, ...], tolerance: float
) -> Row:
    distances = surface_distances(pred_mask, true_mask, spacing)
    return {
        "hd95_mm": float(percentile_distance(distances, 95.0)),
        "assd_mm": float(mean_distance(distances)),
        "nsd": float(within_tolerance(distances, tolerance)),
    }


def _confusion(
    pred: Integer[np.ndarray, " N"] | Bool[np.ndarray, " N"],
    true: Integer[np.ndarray, " N"] | Bool[np.ndarray, " N"],
    number: int,
) -> Integer[np.ndarray, "K K"]:
    """Returns the same table as `metrics.confusion`, in int64 on the host."""
    places = true.astype(np.int64) * number + pred.astype(np.int64)
    return np.bincount(places, minlength=number * number).reshape(number, number)


def _one_against_rest(table: Integer[np.ndarray, "K K"], ids: Sequence[int]) -> Integer[np.ndarray, "2 2"]:
    """Returns the 2 x 2 table of a region, the union of the classes `ids`."""
    inside = np.isin(np.arange(len(table)), ids)
    return np.array([[table[np.ix_(true, pred)].sum() for pred in (~inside, inside)] for true in (~inside, inside)])


def _check_names(classes: Sequence[str], named: Mapping[str, Sequence[int]]) -> None:
    if len(set(classes)) != len(classes):
        raise UserError(f"Every class should have a name of its own, and two share one: {list(classes)}.")
    for name, ids in named.items():
        if not set(ids) <= set(range(len(classes))):
            raise UserError(f"Region {name!r} should be made of class ids 0..{len(classes) - 1}, not {tuple(ids)}.")


def _check_maps(
    pred: np.ndarray, true: np.ndarray, spacing: tuple[float, ...], number: int, roi: np.ndarray | None
) -> None:
    if pred.shape != true.shape:
        raise UserError(f"The prediction should have the label's shape {true.shape}, not {pred.shape}.")
    if pred.ndim not in (2, 3):
        raise UserError(f"Cases are scored in 2D or 3D, and this label map has {pred.ndim} axes.")
    if roi is not None and np.shape(roi) != true.shape:
        raise UserError(f"The roi mask should have the label's shape {true.shape}, not {np.shape(roi)}.")
    if len(spacing) != true.ndim or not all(0 < size < np.inf for size in spacing):
        raise UserError(f"spacing_mm should be {true.ndim} positive numbers, not {spacing}.")
    for name, labels, low in (("prediction", pred, 0), ("label map", true, IGNORE)):
        if not np.issubdtype(labels.dtype, np.integer) and labels.dtype != bool:
            raise UserError(f"The {name} should hold integer class ids, not {labels.dtype}.")
        if labels.size and not (labels.min() >= low and labels.max() < number):
            raise UserError(
                f"The {name} should hold class ids {low}..{number - 1}, and it holds {labels.min()}..{labels.max()}."
            )
