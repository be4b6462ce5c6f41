"""How certain is each pixel, and why not: entropy of the mean, what the members' differences add to it, and votes.

Members come one at a time, so that memory does not grow with their number:

    spread = certainty.start(first.shape)
    for probabilities in members:
        spread = certainty.add(spread, probabilities)
    maps = certainty.finish(spread)

Host numpy, slab by slab. `ensemble` offers the three functions as `start_spread`, `add_member` and `finish_spread`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxseg.metrics.calibration import check_probabilities, slabs


class Spread(NamedTuple):
    """What is kept of the members seen so far: `4 (K + 1) + K` bytes a pixel up to 255 members, then `4 (K + 1) + 2 K`.

    Attributes:
      total: `(*S, K)` float32, weighted sum of their probabilities.
      entropy: `(*S)` float32, weighted sum of their entropies.
      votes: `(K, *S)` uint8 (beyond 255 members uint16), members whose decision is the class (or holds the region).
      members: votes cast; a member of weight 0 has none.
      weight: sum of the weights.
      sigmoid: are the channels regions that may overlap?
    """

    total: np.ndarray
    entropy: np.ndarray
    votes: np.ndarray
    members: int
    weight: float
    sigmoid: bool


class Certainty(NamedTuple):
    """Maps of certainty, float32.

    Attributes:
      probabilities: `(*S, K)`, weighted mean of the members.
      entropy: `(*S)`, `predictive_entropy` of that mean: total uncertainty, 0 to 1.
      mutual_information: `(*S)`, entropy less the members' mean entropy, in the same unit, 0 or more: the part of the
        uncertainty that comes from the members' differences.
      disagreement: `(*S)`, 1 - share of the votes that the most voted class has, 0 to 1 - 1/K; with regions the mean
        over the regions, 0 to 0.5.
    """

    probabilities: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray
    disagreement: np.ndarray


def predictive_entropy(
    probabilities: Float[Array | np.ndarray, "*S K"], *, sigmoid: bool = False
) -> Float[np.ndarray, "*S"]:
    """Returns the entropy of each pixel in nats divided by its largest value, log K: 0 is certain, 1 is uniform.

    With `sigmoid` it is the mean over K of the entropies of yes and no, each divided by log 2: 0 to 1 as well.

    Args:
      probabilities: of K exclusive classes, or of K regions.
      sigmoid: the K are regions that may overlap.

    Raises:
      ValueError: one exclusive class only, or values that are no probabilities.
    """
    probabilities = np.asarray(probabilities)
    _check_classes(probabilities.shape, sigmoid)
    entropy = np.empty(probabilities.shape[:-1], np.float32)
    for rows in slabs(probabilities.shape):
        entropy[rows] = _entropy(_slab(probabilities, rows), sigmoid)
    return entropy


def start(shape: Sequence[int], *, sigmoid: bool = False) -> Spread:
    """Returns the spread of no member yet.

    Args:
      shape: `(*S, K)` of every member's probabilities.
      sigmoid: the K are regions that may overlap, not exclusive classes.

    Raises:
      ValueError: a shape without pixels' axes, or one exclusive class only.
    """
    *sizes, classes = shape
    if not sizes:
        raise ValueError(f"shape should be that of probabilities (*S, K), not {tuple(shape)}.")
    _check_classes(shape, sigmoid)
    votes = np.zeros((classes, *sizes), np.uint8)
    return Spread(np.zeros(tuple(shape), np.float32), np.zeros(sizes, np.float32), votes, 0, 0.0, sigmoid)


def add(spread: Spread, probabilities: Float[Array | np.ndarray, "*S K"], *, weight: float = 1.0) -> Spread:
    """Returns the spread with one more member. The arrays of the given one are reused: do not use it afterwards.

    Args:
      spread: of `start` or `add`.
      probabilities: of the member, of the shape given to `start`.
      weight: of the member in the means. A vote is a vote: every member of positive weight has one.

    Raises:
      ValueError: another shape, a negative weight, or values that are no probabilities.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.shape != spread.total.shape:
        raise ValueError(f"All members should have the shape {spread.total.shape}, and one has {probabilities.shape}.")
    if not 0 <= weight < np.inf:
        raise ValueError(f"A member's weight should be 0 or more, not {weight}.")
    if weight == 0:
        return spread
    votes = spread.votes
    if spread.members == np.iinfo(np.uint8).max:
        votes = votes.astype(np.uint16)
    for rows in slabs(probabilities.shape):
        slab = _slab(probabilities, rows)
        spread.entropy[rows] += np.float32(weight) * _entropy(slab, spread.sigmoid)
        spread.total[rows] += np.float32(weight) * slab
        top = None if spread.sigmoid else slab.argmax(axis=-1)  # ties go to the lower id, as in predictions
        for index, plane in enumerate(votes):
            plane[rows] += slab[..., index] > 0.5 if top is None else top == index
    return spread._replace(votes=votes, members=spread.members + 1, weight=spread.weight + weight)


def finish(spread: Spread) -> Certainty:
    """Returns the maps of all members added. The arrays of the spread are reused: do not use it afterwards.

    Sources: Lakshminarayanan et al., NeurIPS 2017 (ensembles' uncertainty); Depeweg et al., ICML 2018, section 3
    (entropy of the mean = mean entropy + mutual information).

    Raises:
      ValueError: no member of positive weight was added.
    """
    if not spread.members:
        raise ValueError("The certainty of an ensemble needs at least one member of positive weight, got none.")
    scale = np.float32(1 / spread.weight)
    entropy, disagreement = np.empty_like(spread.entropy), np.empty_like(spread.entropy)
    for rows in slabs(spread.total.shape):
        spread.total[rows] *= scale
        entropy[rows] = _entropy(spread.total[rows], spread.sigmoid)
        # From the members' mean entropy to what is missing to the entropy of the mean; below 0 by rounding only.
        spread.entropy[rows] = np.maximum(entropy[rows] - spread.entropy[rows] * scale, 0)
        disagreement[rows] = _disagreement(spread.votes[:, rows], spread.members, spread.sigmoid)
    return Certainty(spread.total, entropy, spread.entropy, disagreement)


def _slab(probabilities: np.ndarray, rows: slice) -> np.ndarray:
    slab = probabilities[rows].astype(np.float32, copy=False)
    check_probabilities(slab)
    return slab


def _check_classes(shape: Sequence[int], sigmoid: bool) -> None:
    if shape[-1] < (1 if sigmoid else 2):
        raise ValueError(f"{shape[-1]} exclusive class leaves nothing to decide; for one region give sigmoid=True.")


def _entropy(probabilities: np.ndarray, sigmoid: bool) -> np.ndarray:
    """`predictive_entropy` of float32 values in memory."""
    surprise = _plogp(probabilities)
    if sigmoid:
        entropy = (surprise + _plogp(1 - probabilities)).mean(axis=-1) / np.log(2)
    else:
        entropy = surprise.sum(axis=-1) / np.log(probabilities.shape[-1])
    return np.clip(-entropy, 0, 1).astype(np.float32)


def _plogp(probabilities: np.ndarray) -> np.ndarray:
    """p log p, 0 at 0."""
    return probabilities * np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def _disagreement(votes: np.ndarray, members: int, sigmoid: bool) -> np.ndarray:
    """Share of the votes against the majority, of `(K, *S)` counts."""
    if sigmoid:  # yes or no has the majority
        return (np.minimum(votes, members - votes.astype(np.int32)) / members).mean(axis=0)
    return 1 - votes.max(axis=0) / members
