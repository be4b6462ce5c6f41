"""How good is a case's segmentation, guessed without the truth: scores that go up and down with its Dice.

Host numpy, slab by slab. `metrics.correlation` and `metrics.risk_coverage` tell how well such a score does.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from jaxseg.metrics.calibration import check_probabilities, slabs

LEAST = 0.5  # voxels; a class with less probability in the whole case is not expected there


def expected_dice(
    probabilities: Float[Array | np.ndarray, "*S K"],
    labels: Integer[Array | np.ndarray, "*S"] | Bool[Array | np.ndarray, "*S K"],
) -> Float[np.ndarray, " _"]:
    """Returns 2 sum p_k [y = k] / (sum p_k + sum [y = k]) of each class but background, float64.

    It is the Dice that the decision y expects of itself if the probabilities are calibrated: numerator and denominator
    are replaced by their expectations. NaN where a class is not predicted and sum p_k < 0.5 voxel; 0 where it
    is not predicted but probable.

    Args:
      probabilities: of K exclusive classes, or of K regions.
      labels: the decision taken: class ids `(*S)`, or `(*S, K)` bool: is the pixel in the region? Then all K are given.

    Raises:
      ValueError: shapes that do not fit, labels that are no class, or values that are no probabilities.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    regions, classes = labels.ndim == probabilities.ndim, probabilities.shape[-1]
    if labels.shape != (probabilities.shape if regions else probabilities.shape[:-1]):
        raise ValueError(f"labels should be one a pixel or a probability {probabilities.shape}, not {labels.shape}.")
    hit, probable, predicted = np.zeros((3, classes))
    for rows in slabs(probabilities.shape):
        slab = probabilities[rows].reshape(-1, classes).astype(np.float32, copy=False)
        check_probabilities(slab)
        probable += slab.sum(axis=0, dtype=np.float64)
        if regions:
            chosen = labels[rows].reshape(-1, classes)
            hit += (slab * chosen).sum(axis=0, dtype=np.float64)
            predicted += chosen.sum(axis=0)
            continue
        flat = _class_ids(labels[rows], classes)
        own = np.take_along_axis(slab, flat[:, None], axis=1)[:, 0]
        hit += np.bincount(flat, weights=own, minlength=classes)
        predicted += np.bincount(flat, minlength=classes)
    expected = 2 * hit / np.maximum(probable + predicted, LEAST)
    expected[(predicted == 0) & (probable < LEAST)] = np.nan
    return expected if regions else expected[1:]


def pairwise_dice(
    label_maps: Sequence[Integer[Array | np.ndarray, "*S"]], *, num_classes: int
) -> Float[np.ndarray, "M M {num_classes}-1"]:
    """Returns the Dice of every member against every other, for each class but background, float64.

    Where neither has the class it is NaN, and on the diagonal too. The maps may be of any integer type: uint8 for 20
    members of 10^7 voxels is 200 MB.

    Args:
      label_maps: one map of class ids a member.
      num_classes: K, with background.

    Raises:
      ValueError: no map, maps of different shapes, or labels that are no class.
    """
    maps = [np.asarray(labels) for labels in label_maps]
    if not maps or any(labels.shape != maps[0].shape for labels in maps):
        raise ValueError(f"agreement needs label maps of one shape, got {[labels.shape for labels in maps]}.")
    pairs = list(itertools.combinations(range(len(maps)), 2))
    sizes, shared = np.zeros((len(maps), num_classes)), np.zeros((len(pairs), num_classes))
    for rows in slabs(maps[0].shape):
        parts = [_class_ids(labels[rows], num_classes) for labels in maps]
        sizes += [np.bincount(part, minlength=num_classes) for part in parts]
        for pair, (first, second) in enumerate(pairs):
            same = parts[first][parts[first] == parts[second]]
            shared[pair] += np.bincount(same, minlength=num_classes)
    table = np.full((len(maps), len(maps), num_classes - 1), np.nan)
    for (first, second), hit in zip(pairs, shared):
        both = (sizes[first] + sizes[second])[1:]
        dice = np.where(both > 0, 2 * hit[1:] / np.maximum(both, 1), np.nan)
        table[first, second] = table[second, first] = dice
    return table


def agreement(
    label_maps: Sequence[Integer[Array | np.ndarray, "*S"]], *, num_classes: int
) -> Float[np.ndarray, "{num_classes}-1"]:
    """Returns the mean Dice of all pairs of members, for each class but background, float64.

    Pairs of which neither has the class are left out; NaN where no pair is left, and for a single member.

    Source: Roy et al., Bayesian QuickNAT, NeuroImage 195 (2019), section 2.4 (pairs of Monte Carlo samples).

    Args:
      label_maps: one map of class ids a member.
      num_classes: K, with background.

    Raises:
      ValueError: as `pairwise_dice`.
    """
    table = pairwise_dice(label_maps, num_classes=num_classes)
    dice = table[np.triu_indices(len(table), k=1)]  # (pairs, K-1)
    number = np.isfinite(dice).sum(axis=0)
    return np.where(number > 0, np.nansum(dice, axis=0) / np.maximum(number, 1), np.nan)


def mean_entropy_inside(
    entropy: Float[Array | np.ndarray, "*S"], labels: Integer[Array | np.ndarray, "*S"] | Bool[np.ndarray, "*S"]
) -> float:
    """Returns the mean entropy (in the unit it has) over the predicted foreground, labels > 0; NaN where it is empty.

    Raises:
      ValueError: maps of different shapes.
    """
    entropy, labels = np.asarray(entropy), np.asarray(labels)
    if entropy.shape != labels.shape:
        raise ValueError(f"entropy and labels should have the same pixels, not {entropy.shape} and {labels.shape}.")
    total, number = 0.0, 0
    for rows in slabs(entropy.shape):
        inside = labels[rows] > 0
        total += float(entropy[rows][inside].sum(dtype=np.float64))
        number += int(np.count_nonzero(inside))
    return total / number if number else float("nan")


def _class_ids(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the labels of a slab, flat, as indices."""
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"Predicted labels should be 0..{num_classes - 1}, not {labels.min()}..{labels.max()}.")
    return labels.reshape(-1).astype(np.intp)
