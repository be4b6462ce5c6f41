"""Temperature scaling: one number that makes probabilities as certain as they are right. Decisions do not change.

Whole volumes are fitted on a stratified sample of their pixels. Host numpy.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Real

from jaxseg.metrics.calibration import FLOOR, check_probabilities, slabs
from jaxseg.typing import IGNORE

LOWEST, HIGHEST = 0.05, 20.0  # where temperatures are looked for; pixels that are all right would have 0


class PixelSample(NamedTuple):
    """Pixels drawn from one case.

    Attributes:
      indices: `(n,)` int64 places in the flattened label map, rising.
      weights: `(n,)` float64, how many pixels of the case each stands for; they sum to its labelled pixels.
    """

    indices: np.ndarray
    weights: np.ndarray


def as_logits(probabilities: Float[Array | np.ndarray, "*S K"], *, sigmoid: bool = False) -> Float[np.ndarray, "*S K"]:
    """Returns logits that give these probabilities, float32: log p, or with `sigmoid` log p - log(1 - p).

    Probabilities below 1.2e-7 (with `sigmoid` above 1 - 1.2e-7, too) count as that, so that all logits are finite.
    """
    probabilities = np.asarray(probabilities)
    logits = np.empty(probabilities.shape, np.float32)
    for rows in slabs(probabilities.shape):
        slab = probabilities[rows].astype(np.float32, copy=False)
        check_probabilities(slab)
        logits[rows] = np.log(np.maximum(slab, FLOOR))
        if sigmoid:
            logits[rows] -= np.log(np.maximum(1 - slab, FLOOR))
    return logits


def fit_temperature(
    logits: Float[Array | np.ndarray, "N K"],
    labels: Integer[Array | np.ndarray, " N"] | Bool[Array | np.ndarray, "N K"] | Real[Array | np.ndarray, "N K"],
    *,
    weights: Real[np.ndarray, " N"] | None = None,
) -> float:
    """Returns the temperature T in [0.05, 20] that minimises the mean negative log-likelihood of `logits / T`.

    The likelihood is convex in 1/T, so it has one minimum in log T, which a bounded search finds. T > 1: the network is
    too sure of itself. Where no T is better than 1 (constant logits) it is 1. Where every pixel is right, T falls to
    0.05 or to where float64 sees no further gain.

    Source: Guo et al., ICML 2017, section 4.2.

    Args:
      logits: of held-out pixels; `as_logits` makes them of probabilities.
      labels: true class ids, IGNORE is left out; or `(N, K)` 0 or 1: is the pixel in the region (sigmoid)?
      weights: non-negative, one a pixel, such as those of `sample_pixels`; all alike by default.

    Raises:
      ValueError: shapes that do not fit, labels that are no class, logits that are not finite, bad weights, or nothing
        labelled.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    regions = labels.ndim == 2
    if logits.ndim != 2 or labels.shape != (logits.shape if regions else logits.shape[:1]):
        raise ValueError(f"labels should be one a row or one a logit of {logits.shape}, not {labels.shape}.")
    shares = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != logits.shape[:1] or not ((shares >= 0) & np.isfinite(shares)).all():
        raise ValueError(f"weights should be {len(logits)} non-negative numbers, one a row of logits.")
    known = (labels != IGNORE).all(axis=-1) if regions else labels != IGNORE
    scores, truth, shares = np.asarray(logits[known]), np.asarray(labels[known]), shares[known]
    if not shares.sum() > 0:
        raise ValueError("A temperature needs labelled pixels of positive weight, and there are none.")
    if not np.isfinite(scores).all():
        raise ValueError("Logits should be finite; as_logits makes such ones of probabilities that may be 0.")
    margins = _region_margins(scores, truth) if regions else _class_margins(scores, truth)
    return _search(margins, shares / shares.sum(), regions)


def _class_margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(N, K)`: how far each class lies above the true one."""
    if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(
            f"Labels should be 0..{logits.shape[1] - 1} or IGNORE (-1), not {labels.min()}..{labels.max()}."
        )
    return logits - np.take_along_axis(logits, labels.astype(np.intp)[:, None], axis=1)


def _region_margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(N, K)`: how far the wrong answer lies above the true one."""
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("Labels of regions should be 0, 1 or IGNORE (-1) for every pixel and region.")
    return np.where(labels == 1, -logits, logits)


def _search(margins: np.ndarray, shares: np.ndarray, regions: bool) -> float:
    from scipy.optimize import minimize_scalar  # slow to import

    def loss(log_temperature: float) -> float:
        scaled = margins * np.exp(-log_temperature)
        if regions:
            return float(shares @ np.logaddexp(0, scaled).mean(axis=1))
        top = scaled.max(axis=1)
        return float(shares @ (top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))))

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def apply_temperature(
    probabilities: Float[Array | np.ndarray, "*S K"], temperature: float, *, sigmoid: bool = False
) -> Float[np.ndarray, "*S K"]:
    """Returns the probabilities at a temperature, float32: softmax(log p / T), or sigmoid(logit(p) / T).

    What is 0 stays 0, and the most probable class stays so.

    Args:
      probabilities: of K exclusive classes, or of K regions.
      temperature: T > 0; above 1 flattens, below 1 sharpens.
      sigmoid: the K are regions that may overlap.

    Raises:
      ValueError: a temperature that is not positive, or values that are no probabilities.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature should be a positive number, not {temperature}.")
    probabilities, power = np.asarray(probabilities), np.float32(1 / temperature)
    scaled = np.empty(probabilities.shape, np.float32)
    for rows in slabs(probabilities.shape):
        slab = probabilities[rows].astype(np.float32, copy=False)
        check_probabilities(slab)
        slab = np.clip(slab, 0, 1)
        # softmax(log p / T) is p^(1/T), normalised; by the largest first, lest all powers vanish.
        if sigmoid:
            top = np.maximum(slab, 1 - slab)
            yes, no = (slab / top) ** power, ((1 - slab) / top) ** power
            scaled[rows] = yes / (yes + no)
        else:
            slab = (slab / slab.max(axis=-1, keepdims=True)) ** power
            scaled[rows] = slab / slab.sum(axis=-1, keepdims=True)
    return scaled


def sample_pixels(labels: Integer[Array | np.ndarray, "*S"], *, count: int, seed: int) -> PixelSample:
    """Returns a seeded sample of a case's pixels, without replacement, with equal numbers of each class that it holds.

    A class smaller than its part gives all its pixels, and the others share what is left. A pixel's weight is its
    class's size over the number drawn of it, so weighted means are unbiased for the whole case. Negative labels
    (IGNORE) are left out. Beside the labels it takes memory for the sample only.

    Args:
      labels: class ids of one case.
      count: pixels to draw; all of them where the case has no more.
      seed: of the draw.

    Raises:
      ValueError: count is smaller than the number of classes in the case, or below 1.
    """
    flat = np.asarray(labels).reshape(-1)
    sizes = np.zeros(0, np.int64)
    for rows in slabs(flat.shape):
        found = np.bincount(flat[rows][flat[rows] >= 0], minlength=len(sizes))
        found[: len(sizes)] += sizes
        sizes = found
    present = np.flatnonzero(sizes)
    if count < max(1, len(present)):
        raise ValueError(f"count should be at least one a class, {max(1, len(present))}, not {count}.")
    generator = np.random.default_rng(seed)
    quotas = _quotas(sizes[present], count)
    drawn = [
        np.sort(generator.choice(size, quota, replace=False, shuffle=False))
        for size, quota in zip(sizes[present], quotas)
    ]
    indices = np.concatenate([np.zeros(0, np.int64), *_places(flat, present, drawn)])
    weights = np.concatenate([np.zeros(0), *(np.full(n, size / n) for size, n in zip(sizes[present], quotas))])
    order = np.argsort(indices)
    return PixelSample(indices[order], weights[order])


def _quotas(sizes: np.ndarray, count: int) -> list[int]:
    """How many to draw of each class: equal parts, the smallest class first, so that what it lacks goes to others."""
    quotas = [0] * len(sizes)
    for turn, place in enumerate(np.argsort(sizes, kind="stable")):
        quotas[place] = min(int(sizes[place]), count // (len(sizes) - turn))
        count -= quotas[place]
    return quotas


def _places(flat: np.ndarray, classes: np.ndarray, drawn: list[np.ndarray]) -> list[np.ndarray]:
    """Where the i-th pixel of a class lies, for each i drawn of each class: one pass, no index of all pixels."""
    found: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in classes]
    seen = [0] * len(classes)
    for rows in slabs(flat.shape):
        for which, value in enumerate(classes):
            places = np.flatnonzero(flat[rows] == value)
            first, last = np.searchsorted(drawn[which], [seen[which], seen[which] + len(places)])
            found[which].append(rows.start + places[drawn[which][first:last] - seen[which]])
            seen[which] += len(places)
    return [np.concatenate(parts) for parts in found]
