"""Label maps of several raters or networks as one: the majority vote, and STAPLE, which also rates the raters."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from jaxseg.ensemble.shares import shares_of

LabelMaps = Sequence[Integer[Array | np.ndarray, "*S"]]
CHUNK = 1_000_000  # votes held at a time
CODES = 1 << 16  # a code of votes may run so high before it is renumbered
NEAR = 1e-9  # scores nearer than this tie: what differs is the rounding of their sums


class Staple(NamedTuple):
    """The consensus of M label maps, and how each of them strays from it.

    Attributes:
      labels: `(*S)` int16, the most probable class of each voxel.
      probabilities: `(*S, K)` float32, or None where they were not asked for.
      confusion: `(M, K, K)` float64: how often member m calls class `row` of the consensus class `column`. A row sums
        to one. It is NaN where the consensus lacks the class.
      prior: `(K,)` float64, the share of each class before the members' maps are weighed.
      iterations: how many were done.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    confusion: np.ndarray
    prior: np.ndarray
    iterations: int


def majority_vote(
    label_maps: LabelMaps,
    *,
    num_classes: int,
    weights: Sequence[float] | Float[np.ndarray, " M"] | None = None,
    ties: Literal["lowest", "background"] = "lowest",
) -> Integer[np.ndarray, "*S"]:
    """Returns the class that most label maps give to each voxel, int16.

    The voxels are taken slab by slab: beside the result, only about a million votes are held at a time.

    Args:
      label_maps: M maps of class ids `0..K-1`, all of one shape.
      num_classes: K, with background.
      weights: one non-negative number a map; None weighs all alike.
      ties: of the classes with the most votes, take the lowest id, or the background (class 0) whether or not
        anybody voted for it.

    Raises:
      ValueError: no map, shapes that differ, labels outside `0..K-1`, weights that do not fit, an unknown tie rule.
    """
    maps = _checked(label_maps, num_classes)
    shares = shares_of(weights, len(maps))
    if ties not in ("lowest", "background"):
        raise ValueError(f'ties should be "lowest" or "background", got {ties!r}.')
    flat = [label_map.reshape(-1) for label_map in maps]  # a view of a contiguous map
    labels = np.empty(flat[0].size, np.int16)
    step = max(1, CHUNK // num_classes)
    for start in range(0, labels.size, step):
        slab = slice(start, min(start + step, labels.size))
        votes = np.zeros((slab.stop - start, num_classes))
        voxels = np.arange(len(votes))
        for share, label_map in zip(shares, flat):
            votes[voxels, label_map[slab]] += share  # a voxel comes once, so that no sum is lost
        labels[slab] = _highest(votes, ties=ties)
    return labels.reshape(maps[0].shape)


def staple(
    label_maps: LabelMaps,
    *,
    num_classes: int,
    iterations: int = 50,
    tolerance: float = 1e-5,
    prior: Sequence[float] | Float[np.ndarray, " K"] | None = None,
    mask: Bool[Array | np.ndarray, "*S"] | None = None,
    keep_probabilities: bool = False,
) -> Staple:
    """Returns the consensus of label maps and each map's confusion with it, estimated together by EM (STAPLE).

    Given the true class, each member is taken to err by itself and alike in every voxel. An iteration estimates the
    members' confusion from the consensus (M step), then the consensus from the confusion and the prior (E step). The
    first consensus is the share of the votes. With two classes this is the binary algorithm: `confusion[m, 1, 1]` is
    the sensitivity p of member m, `confusion[m, 0, 0]` its specificity q.

    Voxels with the same votes have the same consensus. So EM runs over the distinct combinations of votes, each
    counted; of M members and K classes there are few beside the voxels, and an iteration costs little however
    large the volume is. The prior is one number a class for this reason.

    The consensus of a small object in a large volume leans on the background, where all agree: a `mask` around the
    objects makes the prior and the specificity speak of the region in doubt.

    Sources: Warfield, Zou and Wells, IEEE Transactions on Medical Imaging 23 (2004), section II; the
    several classes: Rohlfing, Russakoff and Maurer, IEEE Transactions on Medical Imaging 23 (2004). Prior, first
    consensus and order of the steps are those of SimpleITK's STAPLEImageFilter: both agree after every iteration.
    (That filter stops where no number moves by 1e-7, and reports one iteration less than it did.)

    Args:
      label_maps: M maps of class ids `0..K-1`, all of one shape.
      num_classes: K, with background.
      iterations: at most so many.
      tolerance: stop once no entry of the confusion moves by more.
      prior: share of each class, scaled to sum to one; None takes the mean of the votes. A class that nobody votes
        for stays impossible.
      mask: voxels to learn from; all by default. Outside, the vote decides (ties: the lowest id), and the
        probabilities are the shares of the votes.
      keep_probabilities: return them too; they take `4 K` bytes a voxel.

    Raises:
      ValueError: no map, shapes that differ, labels outside `0..K-1`, an empty mask, settings out of range, a prior
        that forbids a class somebody votes for.
    """
    maps = _checked(label_maps, num_classes)
    if iterations < 1 or not tolerance >= 0:
        raise ValueError(f"iterations should be 1 or more and tolerance 0 or more, got {iterations} and {tolerance}.")
    inside = _checked_mask(mask, maps[0].shape)
    rows, index = _combinations(maps, num_classes)
    counts = np.bincount(index if inside is None else index[inside], minlength=len(rows))
    shares = _vote_shares(rows, num_classes)  # (R, K)
    seen = counts > 0  # EM promises a posterior only to the combinations it learns from
    start = shares[seen]
    share = _checked_prior(prior, counts[seen] @ start / counts.sum())
    posterior, confusion, done = _expectation_maximisation(
        rows[seen], counts[seen], start, share, iterations=iterations, tolerance=tolerance
    )
    table = shares.copy()
    table[seen] = posterior
    labels = _highest(table)[index]
    probabilities = table.astype(np.float32)[index] if keep_probabilities else None
    if inside is not None:
        labels = np.where(inside, labels, _highest(shares)[index])
        if probabilities is not None:
            probabilities[~inside] = shares[index[~inside]]
    shape = maps[0].shape
    if probabilities is not None:
        probabilities = probabilities.reshape(*shape, num_classes)
    return Staple(labels.reshape(shape), probabilities, confusion, share, done)


def _expectation_maximisation(
    rows: Integer[np.ndarray, "R M"],
    counts: Integer[np.ndarray, " R"],
    posterior: Float[np.ndarray, "R K"],
    prior: Float[np.ndarray, " K"],
    *,
    iterations: int,
    tolerance: float,
) -> tuple[Float[np.ndarray, "R K"], Float[np.ndarray, "M K K"], int]:
    """Returns the posterior of each combination of votes, the confusion of each member, and the iterations done."""
    num_classes = posterior.shape[1]
    confusion = np.full((rows.shape[1], num_classes, num_classes), np.inf)
    done, moved = 0, np.inf
    while done < iterations and moved > tolerance:
        before, done = confusion, done + 1
        weighted = posterior * counts[:, None]
        confusion = _confusion(rows, weighted)
        posterior = _posterior(rows, confusion, prior)
        moved = np.abs(confusion - before).max()
    absent = weighted.sum(axis=0) <= 0
    return posterior, np.where(absent[None, :, None], np.nan, confusion), done


def _confusion(rows: Integer[np.ndarray, "R M"], weighted: Float[np.ndarray, "R K"]) -> Float[np.ndarray, "M K K"]:
    """The M step: what each member says of each class; zeros for a class without weight."""
    num_classes = weighted.shape[1]
    total = weighted.sum(axis=0)  # (K,)
    said = [
        [np.bincount(votes, weights=weighted[:, true], minlength=num_classes) for true in range(num_classes)]
        for votes in rows.T
    ]
    return np.array(said) / np.where(total > 0, total, 1)[None, :, None]


def _posterior(
    rows: Integer[np.ndarray, "R M"], confusion: Float[np.ndarray, "M K K"], prior: Float[np.ndarray, " K"]
) -> Float[np.ndarray, "R K"]:
    """The E step, in logarithms: the product over many members would underflow."""
    with np.errstate(divide="ignore"):  # what never happens has the logarithm -inf, and the probability 0
        scores = np.broadcast_to(np.log(prior), (len(rows), len(prior))).copy()
        for votes, table in zip(rows.T, np.log(confusion)):
            scores += table[:, votes].T
    # Finite: the M step before gave every combination a chance under its own likeliest class.
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def _combinations(
    maps: Sequence[np.ndarray], num_classes: int
) -> tuple[Integer[np.ndarray, "R M"], Integer[np.ndarray, " N"]]:
    """Returns the distinct combinations of votes, and which of them each voxel has.

    The votes are the digits of one number. Before it grows past a table, the numbers in use are counted through
    anew: so any number of members fits, and no voxel is ever sorted.
    """
    code, size = np.zeros(maps[0].size, np.int64), 1
    for label_map in maps:
        if size * num_classes > CODES:
            code, first = _renumber(code, size)
            size = len(first)
        code = code * num_classes + label_map.reshape(-1).astype(np.int64, copy=False)  # uint64 would make floats
        size *= num_classes
    index, first = _renumber(code, size)
    return np.stack([label_map.reshape(-1)[first].astype(np.int64) for label_map in maps], axis=1), index


def _renumber(code: Integer[np.ndarray, " N"], size: int) -> tuple[Integer[np.ndarray, " N"], np.ndarray]:
    """Returns the codes numbered from 0 without gaps, in order, and a voxel that has each."""
    place = np.full(size, -1, np.int64)
    place[code] = np.arange(len(code))
    used = place >= 0
    return (np.cumsum(used) - 1)[code], place[used]


def _vote_shares(rows: Integer[np.ndarray, "R M"], num_classes: int) -> Float[np.ndarray, "R K"]:
    shares = np.zeros((len(rows), num_classes))
    for votes in rows.T:
        shares[np.arange(len(rows)), votes] += 1
    return shares / rows.shape[1]


def _highest(scores: Float[np.ndarray, "N K"], *, ties: str = "lowest") -> Integer[np.ndarray, " N"]:
    """Returns the class of the highest score, int16; near ones tie (see NEAR), and all scores are at most 1."""
    among = scores >= scores.max(axis=1, keepdims=True) - NEAR
    best = among.argmax(axis=1).astype(np.int16)  # the first True
    return np.where(among.sum(axis=1) > 1, np.int16(0), best) if ties == "background" else best


def _checked(label_maps: Sequence, num_classes: int) -> list[np.ndarray]:
    maps = [np.asarray(label_map) for label_map in label_maps]
    if not 2 <= num_classes <= np.iinfo(np.int16).max:
        raise ValueError(f"num_classes should be from 2, background included, to 32767, got {num_classes}.")
    if not maps:
        raise ValueError("A consensus needs at least one label map, got none.")
    for number, label_map in enumerate(maps):
        if label_map.shape != maps[0].shape:
            raise ValueError(
                f"All label maps should be {maps[0].shape} as the first, map {number} is {label_map.shape}."
            )
        if label_map.dtype.kind not in "iu":
            raise ValueError(f"Label maps should hold integers, map {number} is {label_map.dtype}: see `astype`.")
        if not label_map.size:
            raise ValueError(f"Label maps should hold at least one voxel, got the shape {label_map.shape}.")
        low, high = int(label_map.min()), int(label_map.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"Labels should be 0 to {num_classes - 1}, map {number} has {low} to {high}.")
    return maps


def _checked_mask(mask: Array | np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return None
    if mask.shape != shape:
        raise ValueError(f"mask should have the shape {shape} of the label maps, got {mask.shape}.")
    inside = np.asarray(mask, bool).reshape(-1)
    if not inside.any():
        raise ValueError("mask should hold at least one voxel to learn from, and it is empty.")
    return inside


def _checked_prior(
    prior: Sequence[float] | np.ndarray | None, votes: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    if prior is None:
        return votes
    share = np.asarray(prior, np.float64)
    if share.shape != votes.shape or not (share >= 0).all() or not 0 < share.sum() < np.inf:
        raise ValueError(f"prior should be {len(votes)} non-negative numbers of positive sum, got {prior}.")
    if ((votes > 0) & (share == 0)).any():
        forbidden = int(np.flatnonzero((votes > 0) & (share == 0))[0])
        raise ValueError(f"prior should be positive for every class with votes, and is 0 for class {forbidden}.")
    return share / share.sum()
