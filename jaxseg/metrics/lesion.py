"""Lesion-wise scores: a connected component is found, missed or invented. Host numpy."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

NEIGHBOURS: dict[int, tuple[Literal[4, 6, 8, 18, 26], ...]] = {2: (4, 8), 3: (6, 18, 26)}  # by number of axes


class LesionScores(NamedTuple):
    """Counts of components and what follows from them.

    Attributes:
      f1: 2 found / (2 found + missed + invented).
      precision: found / (found + invented).
      recall: found / (found + missed).
      found: components of the truth that some predicted component hits.
      missed: components of the truth that none hits.
      invented: predicted components that hit none of the truth.
      number_true: components of the truth.
      number_pred: predicted components.
    """

    f1: float
    precision: float
    recall: float
    found: int
    missed: int
    invented: int
    number_true: int
    number_pred: int


def components(
    mask: Bool[np.ndarray, "*S"], *, connectivity: int | None = None
) -> tuple[Integer[np.ndarray, "*S"], int]:
    """Returns labels 1..n of the connected components (0 outside) and n.

    Args:
      mask: 2D or 3D.
      connectivity: 4 or 8 in 2D, 6, 18 or 26 in 3D; by default corners connect (8, 26).
    """
    import cc3d

    allowed = NEIGHBOURS.get(mask.ndim)
    if allowed is None:
        raise ValueError(f"Components are labelled in 2D and 3D masks, not in {mask.ndim}D.")
    chosen = allowed[-1] if connectivity is None else next((n for n in allowed if n == connectivity), None)
    if chosen is None:
        raise ValueError(f"connectivity should be one of {allowed} for {mask.ndim}D masks, not {connectivity}.")
    labels, number = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=chosen, return_N=True)
    return labels, int(number)


def lesion_scores(
    pred_mask: Bool[np.ndarray, "*S"],
    true_mask: Bool[np.ndarray, "*S"],
    *,
    min_iou: float = 0.0,
    connectivity: int | None = None,
) -> LesionScores:
    """Returns how many components were found, missed and invented; any shared voxel is a hit by default.

    Two empty masks give NaN ratios; one empty mask gives 0.

    Args:
      pred_mask: predicted mask, 2D or 3D.
      true_mask: true mask.
      min_iou: a predicted and a true component hit each other if they share a voxel and their intersection over union
        is at least this; above 0.5 every component is hit at most once.
      connectivity: as in `components`.

    Raises:
      ValueError: the shapes differ, or an option is out of range.
    """
    pred_mask, true_mask = np.asarray(pred_mask, bool), np.asarray(true_mask, bool)
    if pred_mask.shape != true_mask.shape:
        raise ValueError(f"Masks should have one shape, not {pred_mask.shape} and {true_mask.shape}.")
    if not 0 <= min_iou <= 1:
        raise ValueError(f"min_iou should lie in 0..1, not {min_iou}.")
    pred, number_pred = components(pred_mask, connectivity=connectivity)
    true, number_true = components(true_mask, connectivity=connectivity)
    hit_pred, hit_true = _hits(pred, true, min_iou=min_iou)
    found, invented = hit_true.size, number_pred - hit_pred.size
    missed = number_true - found
    nothing = number_true + number_pred == 0

    def ratio(above: int, below: int) -> float:
        return np.nan if nothing else above / below if below else 0.0

    return LesionScores(
        f1=ratio(2 * found, 2 * found + missed + invented),
        precision=ratio(found, found + invented),
        recall=ratio(found, found + missed),
        found=found,
        missed=missed,
        invented=invented,
        number_true=number_true,
        number_pred=number_pred,
    )


def _hits(pred: np.ndarray, true: np.ndarray, *, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of predicted and of true components that have a partner."""
    size_pred, size_true = np.bincount(pred.reshape(-1)), np.bincount(true.reshape(-1))
    both = (pred > 0) & (true > 0)
    # One number a pair, since unique rows are slow to find.
    pairs, shared = np.unique(pred[both].astype(np.int64) * size_true.size + true[both], return_counts=True)
    pred_label, true_label = np.divmod(pairs, size_true.size)
    hit = shared >= min_iou * (size_pred[pred_label] + size_true[true_label] - shared)
    return np.unique(pred_label[hit]), np.unique(true_label[hit])


def lesion_f1(pred_mask: Bool[np.ndarray, "*S"], true_mask: Bool[np.ndarray, "*S"], **options: Any) -> float:
    """Returns the F1 score of `lesion_scores`, with its options."""
    return lesion_scores(pred_mask, true_mask, **options).f1
