"""Areas under ROC and precision-recall curves of pixel scores. Host numpy, exact, equal scores share a threshold.

A region of interest is the caller's: pass `scores[roi]` and `truth[roi]`.
"""

import numpy as np
from jaxtyping import Bool, Float, Integer, Real

Truth = Bool[np.ndarray, "*S"] | Integer[np.ndarray, "*S"]  # False or True, 0 or 1


def _steps(scores: Real[np.ndarray, "*S"], truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (thresholds falling, true positives, false positives) with `score >= threshold` called positive."""
    scores, truth = np.asarray(scores).reshape(-1), np.asarray(truth).reshape(-1)
    if scores.shape != truth.shape:
        raise ValueError(f"scores and truth should have as many pixels each, not {scores.size} and {truth.size}.")
    if np.isnan(scores).any():
        raise ValueError("scores should be numbers that can be sorted, and some are NaN.")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("truth should be False or True (0 or 1) for every pixel; leave ignored ones out.")
    order = np.argsort(scores, kind="stable")[::-1]
    scores, truth = scores[order], truth[order].astype(bool)
    # The last pixel of each run of equal scores closes a step of the curve.
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if scores.size else np.zeros(0, int)
    right = np.cumsum(truth, dtype=np.int64)[ends]
    return scores[ends], right, ends + 1 - right


def roc_area(scores: Real[np.ndarray, "*S"], truth: Truth) -> float:
    """Returns the area under the ROC curve: the chance that a positive scores above a negative, ties counting a half.

    NaN where the truth holds one class only. Source: Hanley and McNeil, Radiology 143 (1982).
    """
    _, right, wrong = _steps(scores, truth)
    if not right.size or right[-1] == 0 or wrong[-1] == 0:
        return np.nan
    hits, alarms = np.append(0, right) / right[-1], np.append(0, wrong) / wrong[-1]
    return float(np.sum(np.diff(alarms) * (hits[1:] + hits[:-1])) / 2)


def precision_recall_area(scores: Real[np.ndarray, "*S"], truth: Truth) -> float:
    """Returns the average precision: precision summed over the steps of recall, without interpolation.

    NaN where nothing is positive. Source: Davis and Goadrich, ICML 2006, on why not to interpolate linearly.
    """
    _, right, wrong = _steps(scores, truth)
    if not right.size or right[-1] == 0:
        return np.nan
    return float(np.sum(np.diff(np.append(0, right)) / right[-1] * (right / (right + wrong))))


def roc_curve(scores: Real[np.ndarray, "*S"], truth: Truth, *, points: int = 200) -> dict[str, Float[np.ndarray, " N"]]:
    """Returns about `points` points to plot: "false_positive_rate", "recall", "threshold", from (0, 0) to (1, 1).

    Points are chosen evenly along the curve's length, so that both its steep and its flat part keep their shape. The
    first threshold is infinite: nothing is called positive.

    Raises:
      ValueError: the truth holds one class only, or points < 2.
    """
    thresholds, right, wrong = _steps(scores, truth)
    if points < 2:
        raise ValueError(f"points should be 2 or more, not {points}.")
    if not right.size or right[-1] == 0 or wrong[-1] == 0:
        raise ValueError("A ROC curve needs both positive and negative pixels, and the truth holds one class only.")
    hits, alarms = np.append(0, right) / right[-1], np.append(0, wrong) / wrong[-1]
    keep = _thin(hits + alarms, points)
    return {
        "false_positive_rate": alarms[keep],
        "recall": hits[keep],
        "threshold": np.append(np.inf, thresholds)[keep],
    }


def precision_recall_curve(
    scores: Real[np.ndarray, "*S"], truth: Truth, *, points: int = 200
) -> dict[str, Float[np.ndarray, " N"]]:
    """Returns about `points` points to plot: "recall" (rising), "precision", "threshold".

    Raises:
      ValueError: nothing is positive, or points < 2.
    """
    thresholds, right, wrong = _steps(scores, truth)
    if points < 2:
        raise ValueError(f"points should be 2 or more, not {points}.")
    if not right.size or right[-1] == 0:
        raise ValueError("A precision-recall curve needs positive pixels, and the truth holds none.")
    hits, exact = right / right[-1], right / (right + wrong)
    keep = _thin(hits + np.append(0, np.cumsum(np.abs(np.diff(exact)))), points)
    return {"recall": hits[keep], "precision": exact[keep], "threshold": thresholds[keep]}


def _thin(length: Float[np.ndarray, " N"], points: int) -> np.ndarray:
    """Returns the places of at most `points` entries spread evenly over a rising length, both ends kept."""
    if length.size <= points:
        return np.arange(length.size)
    places = np.searchsorted(length, np.linspace(length[0], length[-1], points))
    places[-1] = length.size - 1
    return np.unique(np.append(0, places))
