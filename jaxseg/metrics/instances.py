"""How well the objects of an image are found and told apart: matches, counts and scores. Host numpy, float64.

A predicted and a true object are a pair if their intersection over union reaches a threshold (>=; papers differ in
whether equality counts). Crowd regions of the truth are no objects: a prediction without a partner that lies in one by
more than half counts neither way. Objects without a pixel are none. Where a side has no object (P predicted, T true):

| figure                                                | neither P nor T | P only | T only   |
|-------------------------------------------------------|-----------------|--------|----------|
| dsb_score, f1, precision, recall, pq, sq, rq, aji     | NaN             | 0      | 0        |
| dice of all pixels of a class                         | NaN             | 0      | 0        |
| count_error                                           | 0               | found  | -objects |
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxseg.metrics.detection import THRESHOLDS
from jaxseg.ops import run_length
from jaxseg.typing import Instances, UserError

Thresholds = Sequence[float] | Float[np.ndarray, " T"]


class InstanceCounts(NamedTuple):
    """What adds up over images, at T thresholds; the sum is `InstanceCounts(*map(sum, zip(*counts)))`.

    Attributes:
      tp: pairs.
      fp: predicted objects without a partner, but for those in a crowd.
      fn: true objects without a partner.
      overlap: sum of the pairs' intersection over union.
    """

    tp: Integer[np.ndarray, " T"]
    fp: Integer[np.ndarray, " T"]
    fn: Integer[np.ndarray, " T"]
    overlap: Float[np.ndarray, " T"]


class PanopticQuality(NamedTuple):
    """The three of Kirillov et al., CVPR 2019; pq = sq * rq.

    Attributes:
      pq: sum of the pairs' overlaps / (TP + FP / 2 + FN / 2).
      sq: mean overlap of the pairs.
      rq: F1 of the objects.
    """

    pq: float
    sq: float
    rq: float


class _Pair(NamedTuple):
    """Both sides of one image: D predicted and G true objects, and the crowd regions."""

    pred: list[run_length.RunLength]
    true: list[run_length.RunLength]
    crowd: list[run_length.RunLength]
    areas: Float[np.ndarray, " D"]
    true_areas: Float[np.ndarray, " G"]
    overlaps: Float[np.ndarray, "D G"]
    in_crowd: Bool[np.ndarray, " D"]  # by more than half in one region


def match(
    overlaps: Float[np.ndarray, "D G"], *, threshold: float
) -> tuple[Integer[np.ndarray, " M"], Integer[np.ndarray, " M"]]:
    """Returns the rows and the columns of the pairs, each row and column at most once.

    Above 0.5, masks that do not overlap others of their own side have one partner at most, and nothing is to be chosen.
    Otherwise (at 0.5 only halves that fit exactly) it is an optimal assignment, scipy's `linear_sum_assignment`: as
    many pairs as possible and, among those, the largest sum of overlaps. So a lower threshold never has fewer pairs.

    Args:
      overlaps: intersection over union, predicted by true.
      threshold: least overlap of a pair, above 0.

    Raises:
      ValueError: the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold should lie above 0 and at most at 1, not at {threshold}.")
    near = overlaps >= threshold
    rows, columns = np.nonzero(near)
    if near.sum(axis=0).max(initial=0) <= 1 and near.sum(axis=1).max(initial=0) <= 1:
        return rows, columns
    from scipy.optimize import linear_sum_assignment  # slow to import

    among, of = np.unique(rows), np.unique(columns)
    part, allowed = overlaps[np.ix_(among, of)], near[np.ix_(among, of)]
    # All overlaps together weigh less than one more pair.
    row, column = linear_sum_assignment(np.where(allowed, 1 + part / (2 * min(part.shape)), 0), maximize=True)
    row, column = row[allowed[row, column]], column[allowed[row, column]]
    return among[row], of[column]


def instance_counts(
    pred: Instances, true: Instances, *, thresholds: Thresholds = THRESHOLDS, label: int | None = None
) -> InstanceCounts:
    """Returns the pairs, and the objects without a partner, of one image at each threshold; see `match`.

    Args:
      pred, true: the objects of the image.
      thresholds: of intersection over union.
      label: the class that counts; None: all objects, whatever their class.

    Raises:
      UserError: the masks have different sizes, or a side has not one label a mask.
    """
    return _counts(_pair(pred, true, label), thresholds)


def dsb_score(counts: InstanceCounts) -> float:
    """Returns the mean over the thresholds of TP / (TP + FP + FN), the score of the 2018 Data Science Bowl."""
    return float(_ratio(counts.tp, counts.tp + counts.fp + counts.fn, counts).mean())


def f1_at(counts: InstanceCounts, *, threshold: float = 0.5, thresholds: Thresholds = THRESHOLDS) -> float:
    """Returns 2 TP / (2 TP + FP + FN) at one of the thresholds that the counts were taken at.

    Raises:
      ValueError: the threshold is none of those, or the counts were taken at others.
    """
    here = _at(counts, threshold, thresholds)
    return _ratio(2 * here.tp, 2 * here.tp + here.fp + here.fn, here).item()


def precision_at(counts: InstanceCounts, *, threshold: float = 0.5, thresholds: Thresholds = THRESHOLDS) -> float:
    """Returns TP / (TP + FP); arguments and errors as in `f1_at`."""
    here = _at(counts, threshold, thresholds)
    return _ratio(here.tp, here.tp + here.fp, here).item()


def recall_at(counts: InstanceCounts, *, threshold: float = 0.5, thresholds: Thresholds = THRESHOLDS) -> float:
    """Returns TP / (TP + FN); arguments and errors as in `f1_at`."""
    here = _at(counts, threshold, thresholds)
    return _ratio(here.tp, here.tp + here.fn, here).item()


def panoptic_quality(
    counts: InstanceCounts, *, threshold: float = 0.5, thresholds: Thresholds = THRESHOLDS
) -> PanopticQuality:
    """Returns (pq, sq, rq); without a pair all three are 0. Arguments and errors as in `f1_at`."""
    here = _at(counts, threshold, thresholds)
    pq = _ratio(here.overlap, here.tp + here.fp / 2 + here.fn / 2, here).item()
    return PanopticQuality(pq, _ratio(here.overlap, here.tp, here).item(), f1_at(here, thresholds=(0.5,)))


def aggregated_jaccard(pred: Instances, true: Instances, *, label: int | None = None) -> float:
    """Returns the aggregated Jaccard index (AJI) of one image, as first defined: a prediction may serve twice.

    Every true object takes the prediction of the largest intersection over union, taken or not (the variant AJI+
    assigns one to one instead); their intersections are summed above, their unions below. True objects that nothing
    touches and predictions that none took add their area below.
    Source: Kumar et al., IEEE Transactions on Medical Imaging 2017.

    Args, Raises: as in `instance_counts`.
    """
    return _aggregated_jaccard(_pair(pred, true, label))


def instance_rows(pred: Instances, true: Instances, *, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one row a foreground class: class, objects, found, dsb_score, f1_50, f1_75, precision_50, recall_50, pq,
    sq, rq, aji, dice, count_error, in this order; with a "case" each, they are rows for `aggregate`.

    "found" are the predicted objects that count at threshold 0.5, and count_error is found - objects. "dice" is that of
    the class's pixels, objects not told apart; pixels of crowd regions outside of true objects are left out.

    Args:
      pred, true: the objects of the image.
      classes: names by id, background first.

    Raises:
      UserError: as `instance_counts`; or a label is not the id of a foreground class.
    """
    for name, side in (("prediction", pred), ("truth", true)):
        wrong = sorted({int(label) for label in side.labels} - set(range(1, len(classes))))
        if wrong:
            raise UserError(f"The objects of the {name} should have class ids 1..{len(classes) - 1}, not {wrong}.")
    return [{"class": name, **_columns(_pair(pred, true, label))} for label, name in enumerate(classes) if label]


def _columns(pair: _Pair) -> dict[str, float | int]:
    counts = _counts(pair, THRESHOLDS)
    half = _at(counts, 0.5, THRESHOLDS)
    objects, found = (half.tp + half.fn).item(), (half.tp + half.fp).item()
    return {
        "objects": objects,
        "found": found,
        "dsb_score": dsb_score(counts),
        "f1_50": f1_at(counts),
        "f1_75": f1_at(counts, threshold=0.75),
        "precision_50": precision_at(counts),
        "recall_50": recall_at(counts),
        **panoptic_quality(counts)._asdict(),
        "aji": _aggregated_jaccard(pair),
        "dice": _dice(pair),
        "count_error": found - objects,
    }


def _pair(pred: Instances, true: Instances, label: int | None) -> _Pair:
    for name, side in (("prediction", pred), ("truth", true)):
        if not len(side.masks) == len(side.labels) == len(side.crowd):
            raise UserError(
                f"Every object of the {name} should have a mask, a label and a crowd flag; there are "
                f"{len(side.masks)}, {len(side.labels)} and {len(side.crowd)}."
            )
    sizes = sorted({tuple(mask["size"]) for mask in (*pred.masks, *true.masks)})
    if len(sizes) > 1:
        raise UserError(f"The masks of an image's objects should have one size, not {sizes}; resize the prediction's.")
    found, _, areas = _chosen(pred, label)
    present, flags, true_areas = _chosen(true, label)
    objects = [mask for mask, flag in zip(present, flags) if not flag]
    crowd = [mask for mask, flag in zip(present, flags) if flag]
    inside = run_length.overlaps(found, crowd, crowd=np.ones(len(crowd), bool))  # (D, crowds)
    in_crowd = inside.max(axis=1, initial=0) > 0.5
    return _Pair(found, objects, crowd, areas, true_areas[~flags], run_length.overlaps(found, objects), in_crowd)


def _chosen(
    side: Instances, label: int | None
) -> tuple[list[run_length.RunLength], Bool[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Returns masks, crowd flags and areas of the objects of a class that have pixels."""
    areas = run_length.areas(side.masks)
    rows = np.flatnonzero((areas > 0) & (True if label is None else np.asarray(side.labels) == label))
    return [side.masks[row] for row in rows], np.asarray(side.crowd, bool)[rows], areas[rows]


def _counts(pair: _Pair, thresholds: Thresholds) -> InstanceCounts:
    counts = []
    for threshold in thresholds:
        rows, columns = match(pair.overlaps, threshold=float(threshold))
        alone = np.ones(len(pair.areas), bool)
        alone[rows] = False
        wrong = np.count_nonzero(alone & ~pair.in_crowd)
        counts.append((rows.size, wrong, len(pair.true_areas) - rows.size, pair.overlaps[rows, columns].sum()))
    tp, fp, fn, overlap = np.array(counts, np.float64).reshape(-1, 4).T
    return InstanceCounts(tp.astype(np.int64), fp.astype(np.int64), fn.astype(np.int64), overlap)


def _at(counts: InstanceCounts, threshold: float, thresholds: Thresholds) -> InstanceCounts:
    """Returns the counts at one threshold, T = 1."""
    places = np.flatnonzero(np.isclose(thresholds, threshold, rtol=0, atol=1e-9))
    if len(counts.tp) != len(thresholds) or not places.size:
        raise ValueError(
            f"threshold {threshold} should be among the {len(counts.tp)} thresholds of the counts, and thresholds="
            f"{[round(float(value), 6) for value in thresholds]}; give those that the counts were taken at."
        )
    return InstanceCounts(*(value[places[:1]] for value in counts))


def _ratio(above: np.ndarray, below: np.ndarray, counts: InstanceCounts) -> Float[np.ndarray, " T"]:
    """Returns above / below: NaN without any object, 0 where only the denominator is 0."""
    nothing = counts.tp + counts.fp + counts.fn == 0
    result = np.divide(above, below, out=np.zeros(len(nothing)), where=below > 0)
    return np.where(nothing, np.nan, result)


def _aggregated_jaccard(pair: _Pair) -> float:
    both = pair.areas[:, None] + pair.true_areas[None]
    shared = np.rint(pair.overlaps * both / (1 + pair.overlaps))  # (D, G) pixels
    used = np.zeros(len(pair.areas), bool)
    above, below = 0.0, float(pair.true_areas.sum())
    if shared.size:
        largest = pair.overlaps.max(axis=0)
        touched = np.flatnonzero(largest)
        # Of equal overlaps the one with more shared pixels, so that the order of the objects does not matter.
        best = np.argmax(np.where(pair.overlaps == largest, shared, -1), axis=0)[touched]
        above = float(shared[best, touched].sum())
        below += float((pair.areas[best] - shared[best, touched]).sum())
        used[best] = True
    below += float(pair.areas[~used & ~pair.in_crowd].sum())
    return above / below if below else float("nan")


def _dice(pair: _Pair) -> float:
    """Dice of the unions of masks, without the predicted pixels that lie in a crowd and in no true object."""
    from pycocotools import mask as coco

    pred, true, crowd = ([coco.merge(side)] if side else [] for side in (pair.pred, pair.true, pair.crowd))

    def pixels(*sides: list[run_length.RunLength]) -> float:
        return float(coco.area(coco.merge([side[0] for side in sides], intersect=True))) if all(sides) else 0.0

    both = pixels(pred) - pixels(pred, crowd) + pixels(pred, crowd, true) + pixels(true)
    return 2 * pixels(pred, true) / both if both else float("nan")
