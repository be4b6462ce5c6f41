"""Do probabilities say how often they are right, and does certainty say which cases to trust? Host numpy, additive.

The counts of slabs, cases and members add up (`add`); ratios are taken from the sum at the end. Volumes are read in
slabs, so that no temporary of the size of `(*S, K)` is made.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Real

from jaxseg.typing import IGNORE

FLOOR = float(np.finfo(np.float32).eps)  # smaller probabilities count as this: no pixel's logarithm is infinite
SLAB = 1 << 20  # elements held at a time
Kind = Literal["pearson", "spearman"]
Labels = (
    Integer[Array | np.ndarray, "*S"] | Bool[Array | np.ndarray, "*S K"] | Real[Array | np.ndarray, "*S K"]
)  # class ids, or one plane of 0, 1 and IGNORE a region


class CalibrationCounts(NamedTuple):
    """What calibration figures are made of; every field is a sum over pixels, so two of them add up.

    Attributes:
      pixels: `(bins,)` int64, pixels by the confidence of their decision.
      confidence: `(bins,)` float64, sum of these confidences.
      correct: `(bins,)` int64, pixels of right decision.
      brier: `()` float64, sum of squared errors.
      log_loss: `()` float64, sum of -log p(true), in nats.
      n: `()` int64, pixels (with regions: pixels times regions).
    """

    pixels: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    brier: np.ndarray
    log_loss: np.ndarray
    n: np.ndarray


class RiskCoverage(NamedTuple):
    """Mean risk of the cases kept, from the most certain one alone to all of them.

    Attributes:
      coverage: `(N,)` share of the cases that are kept: 1/N, 2/N, ... 1.
      risk: `(N,)` their mean risk.
      area: mean of the curve (AURC), the smaller the better.
      area_best: the same if certainty put the cases in the order of their risks.
      area_random: the same if it said nothing: the mean risk.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    area_best: float
    area_random: float


class Correlation(NamedTuple):
    """A correlation `value` with its bootstrap interval `low..high`, `n` pairs and `n_excluded` pairs with NaN."""

    value: float
    low: float
    high: float
    n: int
    n_excluded: int


def slabs(shape: Sequence[int], *, limit: int = SLAB) -> Iterator[slice]:
    """Yields slices of the first axis that hold `limit` elements of such an array at most, but one row at least."""
    step = max(1, limit // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def check_probabilities(probabilities: np.ndarray) -> None:
    """Raises ValueError unless all are numbers from 0 to 1, up to what half precision rounds."""
    if probabilities.size and not (probabilities.min() >= -1e-2 and probabilities.max() <= 1 + 1e-2):
        raise ValueError(
            f"Probabilities should lie between 0 and 1, not {probabilities.min():.3g} to {probabilities.max():.3g}; "
            "give them after the softmax or sigmoid."
        )


def calibration_counts(
    probabilities: Float[Array | np.ndarray, "*S K"],
    labels: Labels,
    *,
    bins: int = 15,
    ignore_label: int = IGNORE,
    mask: Bool[Array | np.ndarray, "*S"] | None = None,
) -> CalibrationCounts:
    """Returns the sums of one image; see `CalibrationCounts`.

    Confidence is the largest probability of a pixel. Bins are equal parts of [0, 1], closed on the right; 0 belongs to
    the first. The Brier term of a pixel is the sum over all K of (p - [k is true])^2, from 0 to 2. With regions every
    channel is a binary problem: decision p > 0.5, confidence max(p, 1 - p), and Brier term (p - truth)^2, from 0 to 1.

    Source: Guo et al., ICML 2017, section 2; Brier, Monthly Weather Review 78 (1950).

    Args:
      probabilities: of K exclusive classes (they sum to 1), or of K regions.
      labels: true class ids `(*S)`, or `(*S, K)` 0 or 1: is the pixel in the region?
      bins: number of bins of confidence.
      ignore_label: value in `labels` of pixels that do not count.
      mask: True where pixels count, such as a dilated box around the foreground, lest easy background hide the rest.

    Raises:
      ValueError: shapes that do not fit, labels that are no class, or values that are no probabilities.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    regions = labels.ndim == probabilities.ndim
    if labels.shape != probabilities.shape[: labels.ndim] or probabilities.ndim - labels.ndim > 1:
        raise ValueError(f"labels should be one a pixel or a probability {probabilities.shape}, not {labels.shape}.")
    if mask is not None and mask.shape != probabilities.shape[:-1]:
        raise ValueError(f"mask should have the pixels of the image, {probabilities.shape[:-1]}, not {mask.shape}.")
    if bins < 1:
        raise ValueError(f"bins should be 1 or more, not {bins}.")
    # In the type of the probabilities: a float32 0.6 belongs to the bin that ends at 0.6.
    edges = (np.arange(bins + 1) / bins).astype(probabilities.dtype).astype(np.float64)
    total = _nothing(bins)
    for rows in slabs(probabilities.shape):
        counted = labels[rows] != ignore_label
        if mask is not None:
            inside = np.asarray(mask[rows])
            counted &= inside[..., None] if regions else inside
        chosen = probabilities[rows][counted].astype(np.float64)  # (n, K), regions: (n,)
        check_probabilities(chosen)
        total = add(total, (_binary if regions else _exclusive)(chosen, labels[rows][counted], edges))
    return total


def add(a: CalibrationCounts, b: CalibrationCounts) -> CalibrationCounts:
    """Returns the counts of both together.

    Raises:
      ValueError: they have different bins.
    """
    if len(a.pixels) != len(b.pixels):
        raise ValueError(f"Counts to add should have the same bins, not {len(a.pixels)} and {len(b.pixels)}.")
    return CalibrationCounts(*(np.asarray(first + second) for first, second in zip(a, b)))


def _nothing(bins: int) -> CalibrationCounts:
    table, zero = np.zeros(bins, np.int64), np.zeros((), np.float64)
    return CalibrationCounts(table, np.zeros(bins), table, zero, zero, np.zeros((), np.int64))


def _exclusive(probabilities: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> CalibrationCounts:
    """Counts of `(n, K)` probabilities and `(n,)` class ids."""
    classes = probabilities.shape[-1]
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"Labels should be 0..{classes - 1} or ignored, not {labels.min()}..{labels.max()}.")
    if labels.size and np.abs(probabilities.sum(axis=-1) - 1).max() > 2e-2:
        raise ValueError("Probabilities of classes should sum to 1; with regions give labels one a region (*S, K).")
    labels = labels.astype(np.intp)
    true = np.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
    # sum_k (p_k - [k is true])^2, multiplied out
    brier = np.square(probabilities).sum(axis=-1) - 2 * true + 1
    right = probabilities.argmax(axis=-1) == labels
    return _tally(probabilities.max(axis=-1), right, true, brier, edges)


def _binary(probabilities: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> CalibrationCounts:
    """Counts of `(n,)` probabilities and truths 0 or 1."""
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("Labels of regions should be 0, 1 or ignored for every pixel and region.")
    inside = labels.astype(bool)
    true = np.where(inside, probabilities, 1 - probabilities)
    confidence = np.maximum(probabilities, 1 - probabilities)
    return _tally(confidence, (probabilities > 0.5) == inside, true, np.square(1 - true), edges)


def _tally(
    confidence: np.ndarray, right: np.ndarray, true: np.ndarray, brier: np.ndarray, edges: np.ndarray
) -> CalibrationCounts:
    bins = len(edges) - 1
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    return CalibrationCounts(
        pixels=np.bincount(places, minlength=bins).astype(np.int64),
        confidence=np.bincount(places, weights=confidence, minlength=bins),
        correct=np.bincount(places[right], minlength=bins).astype(np.int64),
        brier=np.asarray(brier.sum()),
        log_loss=np.asarray(-np.log(np.maximum(true, FLOOR)).sum()),
        n=np.asarray(places.size, np.int64),
    )


def expected_calibration_error(counts: CalibrationCounts) -> float:
    """Returns the mean over pixels of |accuracy - mean confidence| of their bin, 0 to 1; NaN of no pixel.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3.
    """
    return float(np.abs(counts.correct - counts.confidence).sum() / counts.n) if counts.n else float("nan")


def maximum_calibration_error(counts: CalibrationCounts) -> float:
    """Returns the largest |accuracy - mean confidence| of a bin that holds a pixel; NaN of no pixel.

    Source: Guo et al., ICML 2017, equation 5.
    """
    used = counts.pixels > 0
    gaps = np.abs(counts.correct - counts.confidence)[used] / counts.pixels[used]
    return float(gaps.max()) if used.any() else float("nan")


def brier_score(counts: CalibrationCounts) -> float:
    """Returns the mean Brier term: 0 to 2 for classes, 0 to 1 for regions (`calibration_counts`); NaN of no pixel."""
    return float(counts.brier / counts.n) if counts.n else float("nan")


def negative_log_likelihood(counts: CalibrationCounts) -> float:
    """Returns the mean -log p(true) in nats, p no smaller than `FLOOR` (1.2e-7: at most 15.9); NaN of no pixel."""
    return float(counts.log_loss / counts.n) if counts.n else float("nan")


def risk_coverage(
    confidence: Real[np.ndarray, " N"] | Sequence[float], risk: Real[np.ndarray, " N"] | Sequence[float]
) -> RiskCoverage:
    """Returns the risk-coverage curve of cases: what is the mean risk if only the most certain ones are kept?

    Cases of equal confidence may come in any order; the curve is its mean over all their orders. Of no case the areas
    are NaN. Sources: Geifman and El-Yaniv, NeurIPS 2017 (the curve); Geifman et al., ICLR 2019 (its area).

    Args:
      confidence: any score of a case, higher where it is more certain; negate an uncertainty.
      risk: of the same cases, such as 1 - Dice.

    Raises:
      ValueError: sides of different length, confidence that is NaN, or a risk that is not finite.
    """
    confidence, risk = np.asarray(confidence, np.float64), np.asarray(risk, np.float64)
    if confidence.shape != risk.shape or risk.ndim != 1:
        raise ValueError(f"confidence and risk should be one a case, not {confidence.shape} and {risk.shape}.")
    if np.isnan(confidence).any() or not np.isfinite(risk).all():
        raise ValueError("confidence should be a number and risk a finite one; leave out cases without (NaN).")
    if not risk.size:
        return RiskCoverage(risk, risk, *(float("nan"),) * 3)
    _, group = np.unique(-confidence, return_inverse=True)  # group 0 is the most certain
    # Over all orders of a group each of its places holds the group's mean risk.
    expected = (np.bincount(group, weights=risk) / np.bincount(group))[np.sort(group)]
    kept = np.arange(1, risk.size + 1)
    curve, best = np.cumsum(expected) / kept, np.cumsum(np.sort(risk)) / kept
    return RiskCoverage(kept / risk.size, curve, float(curve.mean()), float(best.mean()), float(risk.mean()))


def correlation(
    a: Real[np.ndarray, " N"] | Sequence[float], b: Real[np.ndarray, " N"] | Sequence[float], *, kind: Kind = "pearson"
) -> float:
    """Returns the correlation of pairs: "pearson" of the values, "spearman" of their ranks (ties share the mean rank).

    Pairs with a NaN are left out. NaN of fewer than three pairs, of a constant side, and for "pearson" of infinite
    values; to ranks an infinite value is the largest or smallest.

    Raises:
      ValueError: sides of different length, or an unknown kind.
    """
    return _correlate(*_pairs(a, b), kind)


def correlation_interval(
    a: Real[np.ndarray, " N"] | Sequence[float],
    b: Real[np.ndarray, " N"] | Sequence[float],
    *,
    kind: Kind = "pearson",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Returns the correlation with its bootstrap percentile interval and n; pairs are resampled as wholes.

    Resamples whose correlation is undefined (one side constant) are left out. The interval is NaN where `correlation`
    is. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
      a: one value a case.
      b: likewise.
      kind: "pearson" or "spearman".
      confidence: of the interval.
      resamples: bootstrap samples.
      seed: of the resampling.

    Raises:
      ValueError: as `correlation`, or an option out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie between 0 and 1, not {confidence}.")
    if resamples < 1:
        raise ValueError(f"resamples should be 1 or more, not {resamples}.")
    first, second = _pairs(a, b)
    value, low, high = _correlate(first, second, kind), float("nan"), float("nan")
    if not np.isnan(value):
        generator = np.random.default_rng(seed)
        drawn = (generator.integers(first.size, size=first.size) for _ in range(resamples))
        values = np.array([_correlate(first[places], second[places], kind) for places in drawn])
        values = values[~np.isnan(values)]
        if values.size:
            low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Correlation(value, low, high, n=first.size, n_excluded=len(a) - first.size)


def _pairs(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sides in float64, without the pairs that hold a NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"A correlation needs two lists of one length, not {a.shape} and {b.shape}.")
    known = ~(np.isnan(a) | np.isnan(b))
    return a[known], b[known]


def _correlate(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    if kind not in ("pearson", "spearman"):
        raise ValueError(f'kind should be "pearson" or "spearman", not {kind!r}.')
    if kind == "spearman":
        a, b = _ranks(a), _ranks(b)
    if a.size < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()) or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return float("nan")
    a, b = (side / np.abs(side).max() for side in (a, b))  # squares of tiny values would vanish
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()), -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]
