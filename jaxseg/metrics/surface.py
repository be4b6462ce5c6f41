"""Distances between the surfaces of two masks, in millimetres, on the host; 2D or 3D, anisotropic voxels.

Two conventions, by name:
  "voxel" (ours, MONAI's): the surface is the mask's border voxels, mask minus its erosion with the cross; outside the
    image counts as background. Every border voxel weighs the same. Percentiles interpolate linearly.
  "surface_elements" (DeepMind's idea, Nikolov et al., JMIR 23 (2021)): the surface lies between voxels. Every
    2 x 2 (x 2) neighbourhood that is neither empty nor full is an element, weighted by the length or area of the
    marching-cubes surface inside it. Percentiles are the first distance at which the weight is reached.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxseg.metrics.elements import element_codes, element_weights

Convention = Literal["voxel", "surface_elements"]
Mask = Bool[np.ndarray, "*S"]
# Distances are float32 sums of squares: one that equals the tolerance may come out larger by a rounding error.
ROUNDING = 1e-5


class SurfaceDistances(NamedTuple):
    """Distances in mm from every surface element of one mask to the nearest of the other, and the elements' weights.

    Both lists are empty where both masks are; one side's distances are infinite where the other mask is empty.
    """

    pred_to_true: Float[np.ndarray, " P"]
    pred_weights: Float[np.ndarray, " P"]
    true_to_pred: Float[np.ndarray, " T"]
    true_weights: Float[np.ndarray, " T"]
    convention: Convention


def border(mask: Mask) -> Mask:
    """Returns the voxels of a mask that touch, along an axis, a voxel outside it; beyond the image is outside."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[0] = target[-1] = False
    return mask & ~inside


def surface_distances(
    pred_mask: Mask,
    true_mask: Mask,
    spacing_mm: tuple[float, ...],
    *,
    convention: Convention = "voxel",
) -> SurfaceDistances:
    """Returns the distances that all metrics of this file are taken from; compute once, ask often.

    Args:
      pred_mask: predicted mask, 2D or 3D.
      true_mask: true mask of the same shape.
      spacing_mm: voxel size along each axis, in array order.
      convention: see the top of this file.

    Raises:
      ValueError: shapes, spacing or convention do not fit.
    """
    pred_mask, true_mask = np.asarray(pred_mask, bool), np.asarray(true_mask, bool)
    spacing = tuple(float(size) for size in spacing_mm)
    _check(pred_mask, true_mask, spacing, convention)
    box = _bounding_box(pred_mask | true_mask)
    if box is None:
        nothing = np.zeros(0)
        return SurfaceDistances(nothing, nothing, nothing, nothing, convention)
    pred_surface, pred_weights = _surface(pred_mask[box], spacing, convention)
    true_surface, true_weights = _surface(true_mask[box], spacing, convention)
    pred_to_true = _distance_to(true_surface, spacing)[pred_surface]
    true_to_pred = _distance_to(pred_surface, spacing)[true_surface]
    return SurfaceDistances(pred_to_true, pred_weights, true_to_pred, true_weights, convention)


def _check(pred_mask: Mask, true_mask: Mask, spacing: tuple[float, ...], convention: str) -> None:
    if pred_mask.shape != true_mask.shape:
        raise ValueError(f"Masks should have one shape, not {pred_mask.shape} and {true_mask.shape}.")
    if pred_mask.ndim not in (2, 3):
        raise ValueError(f"Surfaces are measured in 2D and 3D masks, not in {pred_mask.ndim}D.")
    if len(spacing) != pred_mask.ndim or not all(0 < size < np.inf for size in spacing):
        raise ValueError(f"spacing_mm should be {pred_mask.ndim} positive numbers, not {spacing}.")
    if convention not in ("voxel", "surface_elements"):
        raise ValueError(f'convention should be "voxel" or "surface_elements", not {convention!r}.')


def _bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Returns the smallest box around a mask, None for an empty one. What lies outside is background to both masks."""
    box = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not hits.size:
            return None
        box.append(slice(hits[0], hits[-1] + 1))
    return tuple(box)


def _surface(
    mask: Mask, spacing: tuple[float, ...], convention: str
) -> tuple[Bool[np.ndarray, "*T"], Float[np.ndarray, " N"]]:
    """Returns where the surface elements are, and each one's weight in the order of `array[where]`."""
    if convention == "voxel":
        where = border(mask)
        return where, np.ones(np.count_nonzero(where))
    codes = element_codes(mask)
    where = (codes > 0) & (codes < 2 ** (2**mask.ndim) - 1)
    return where, element_weights(spacing)[codes[where]]


def _distance_to(surface: Mask, spacing: tuple[float, ...]) -> Float[np.ndarray, "*S"]:
    """Returns the distance of every voxel to the nearest one of the surface, infinite where there is none."""
    import edt

    if not surface.any():
        return np.full(surface.shape, np.inf, np.float32)
    return edt.edt(np.ascontiguousarray(~surface), anisotropy=spacing, black_border=False, parallel=1)


def percentile_distance(distances: SurfaceDistances, percentile: float) -> float:
    """Returns the larger of the two directed percentiles, in mm; NaN for two empty masks, inf for one.

    "voxel" interpolates linearly between the order statistics; "surface_elements" takes the first distance up to which
    the given share of the surface's weight lies.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile should lie in 0..100, not {percentile}.")
    empty = _empty_value(distances, one=np.inf)
    if empty is not None:
        return empty
    sides = (
        (distances.pred_to_true, distances.pred_weights),
        (distances.true_to_pred, distances.true_weights),
    )
    if distances.convention == "voxel":
        return max(float(np.percentile(values.astype(np.float64), percentile)) for values, _ in sides)
    return max(_weighted_percentile(values, weights, percentile) for values, weights in sides)


def _weighted_percentile(values: np.ndarray, weights: np.ndarray, percentile: float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    place = int(np.searchsorted(reached, percentile / 100))
    return float(values[order][min(place, values.size - 1)])


def mean_distance(distances: SurfaceDistances, *, average: str = "joined") -> float:
    """Returns the average symmetric surface distance in mm; NaN for two empty masks, inf for one.

    Args:
      distances: of `surface_distances`.
      average: "joined" is the (weighted) mean over both directions' elements together (MONAI's symmetric distance);
        "directions" is the mean of the two directed means (MedPy's, and the average DeepMind's two numbers give);
        "pred_to_true" and "true_to_pred" are the directed means.

    Raises:
      ValueError: `average` is none of these.
    """
    if average not in ("joined", "directions", "pred_to_true", "true_to_pred"):
        raise ValueError(f"average should be joined, directions, pred_to_true or true_to_pred, not {average!r}.")
    empty = _empty_value(distances, one=np.inf)
    if empty is not None:
        return empty
    total_pred = float(np.dot(distances.pred_to_true.astype(np.float64), distances.pred_weights))
    total_true = float(np.dot(distances.true_to_pred.astype(np.float64), distances.true_weights))
    weight_pred, weight_true = distances.pred_weights.sum(), distances.true_weights.sum()
    directed = {"pred_to_true": total_pred / weight_pred, "true_to_pred": total_true / weight_true}
    if average == "joined":
        return float((total_pred + total_true) / (weight_pred + weight_true))
    return float(directed.get(average, sum(directed.values()) / 2))


def within_tolerance(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Returns the share of both surfaces within a tolerance of the other; NaN for two empty masks, 0 for one."""
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm should be 0 or more, not {tolerance_mm}.")
    empty = _empty_value(distances, one=0.0)
    if empty is not None:
        return empty
    limit = tolerance_mm * (1 + ROUNDING)
    near = distances.pred_weights[distances.pred_to_true <= limit].sum()
    near += distances.true_weights[distances.true_to_pred <= limit].sum()
    return float(near / (distances.pred_weights.sum() + distances.true_weights.sum()))


def _empty_value(distances: SurfaceDistances, *, one: float) -> float | None:
    """Returns NaN where both masks are empty, `one` where one is, None where neither is."""
    empty = [not distances.pred_to_true.size, not distances.true_to_pred.size]
    return np.nan if all(empty) else one if any(empty) else None


def hausdorff(
    pred_mask: Mask,
    true_mask: Mask,
    spacing_mm: tuple[float, ...],
    *,
    percentile: float = 100.0,
    convention: Convention = "voxel",
) -> float:
    """Returns the Hausdorff distance in mm: the larger of the two directed (percentile) distances.

    NaN where both masks are empty, infinite where one is. Source: Huttenlocher et al., TPAMI 15 (1993).
    """
    distances = surface_distances(pred_mask, true_mask, spacing_mm, convention=convention)
    return percentile_distance(distances, percentile)


def hausdorff95(
    pred_mask: Mask, true_mask: Mask, spacing_mm: tuple[float, ...], *, convention: Convention = "voxel"
) -> float:
    """Returns the larger of the two directed 95th percentiles in mm, not that of both lists pooled; see `hausdorff`."""
    return hausdorff(pred_mask, true_mask, spacing_mm, percentile=95.0, convention=convention)


def average_surface_distance(
    pred_mask: Mask,
    true_mask: Mask,
    spacing_mm: tuple[float, ...],
    *,
    average: str = "joined",
    convention: Convention = "voxel",
) -> float:
    """Returns the average symmetric surface distance (ASSD) in mm; `average` as in `mean_distance`."""
    distances = surface_distances(pred_mask, true_mask, spacing_mm, convention=convention)
    return mean_distance(distances, average=average)


def surface_dice(
    pred_mask: Mask,
    true_mask: Mask,
    spacing_mm: tuple[float, ...],
    *,
    tolerance_mm: float = 1.0,
    convention: Convention = "voxel",
) -> float:
    """Returns the normalised surface Dice (NSD): the share of both surfaces within `tolerance_mm` of the other.

    NaN where both masks are empty, 0 where one is. Source: Nikolov et al., JMIR 23 (2021).
    """
    distances = surface_distances(pred_mask, true_mask, spacing_mm, convention=convention)
    return within_tolerance(distances, tolerance_mm)
