"""Boosting: each round weighs up what the rounds before got wrong, and votes by how little it got wrong itself.

AdaBoost.R2 weighs cases by their losses, SAMME weighs pixels by right and wrong. Both are host code in numpy. Gradient
boosting in function space is a task: `jaxseg.tasks.boosted`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxseg.typing import UserError

SMALLEST_ERROR = 1e-6  # a member without any error votes as one with this error: log(1e6), 13.8, in place of infinity
SMALLEST_PROBABILITY = 1e-7  # what a member is sure of counts as far as float32 can tell it from 1
SLAB_VALUES = 2**22  # values of one member taken at a time


class Round(NamedTuple):
    """What a round says about the next one.

    Attributes:
      weights: for the next round.
      vote: of this round's member; 0 where `stop`.
      error: the member's weighted error, from 0 to 1.
      stop: the member is no better than chance; the weights are those that came.
    """

    weights: np.ndarray
    vote: float
    error: float
    stop: bool


class Record(NamedTuple):
    """What happened in a round of `boost`.

    Attributes:
      weights: `(N,)`, those the member was trained with.
      losses: `(N,)` of the member.
      vote: of the member.
      error: its weighted error.
      stop: it was no better than chance.
      score: what `validate` said of the members up to this one; NaN if it was not asked.
    """

    weights: np.ndarray
    losses: np.ndarray
    vote: float
    error: float
    stop: bool
    score: float


class Boosted(NamedTuple):
    """Members that were kept, their votes, and a record of each round that was run, kept or not."""

    members: tuple[Any, ...]
    votes: tuple[float, ...]
    history: tuple[Record, ...]


def adaboost_r2(
    weights: Float[np.ndarray, "N"],
    losses: Float[np.ndarray, "N"],
    *,
    shrinkage: float = 1.0,
    relative: bool = True,
) -> Round:
    """One round of AdaBoost.R2 with the linear loss (Drucker 1997, "Improving regressors using boosting techniques").

    With e_i = L_i / max L and the weighted error E = sum w_i e_i, b = E / (1 - E): the weights become
    w_i * b^(shrinkage * (1 - e_i)), scaled to sum to 1, and the vote is shrinkage * log(1 / b).

    The losses are relative to the largest, so cases that are all equally bad have E = 1 and stop the boosting. That is
    made for errors without a scale. 1 - Dice has one: without `relative` the losses are taken as they are, e_i = L_i,
    and boosting goes on while the weighted mean Dice is above 1/2. (The relative rule stops at once where a network
    does most cases alike, at a Dice of 0.6 to 0.8, say.)

    Args:
      weights: of the cases, not negative; scaled to sum to 1 first.
      losses: of the cases, from 0 to 1, such as 1 - Dice. NaN means not scored: the case stays out of E, and its weight
        is left as it is before the scaling.
      shrinkage: above 0 and at most 1 (the learning rate); 1 is Drucker's.
      relative: to the largest loss, as Drucker has it.

    Returns:
      Round, its weights a distribution. E >= 0.5 stops. E is taken as 1e-6 where it is smaller: the vote is at most
      13.8 * shrinkage. Where all scored losses are 0 the weights stay, for no case is harder than another.

    Raises:
      UserError: sizes that do not fit, weights that are no distribution, losses out of range or none scored.
    """
    shares = _positive(weights)
    shares = shares / shares.sum()
    values = np.asarray(losses, np.float64)
    _check_shrinkage(shrinkage)
    scored = ~np.isnan(values)
    if values.shape != shares.shape or not shares[scored].any():
        raise UserError(f"losses should be one a weight and score a case of some weight, got {_told(values, shares)}.")
    # Dice in float32 may end a rounding above 1.
    if (values[scored] < -1e-6).any() or (values[scored] > 1 + 1e-6).any():
        raise UserError(f"losses should lie from 0 to 1, as 1 - Dice does, got {_told(values, shares)}.")
    largest = max(values[scored].max(), 0.0)
    scale = largest if relative and largest else 1.0
    own = np.clip(values / scale, 0.0, 1.0)  # NaN stays NaN
    error = float((shares * own)[scored].sum() / shares[scored].sum())
    if error >= 0.5:
        return Round(shares, 0.0, error, True)
    bounded = max(error, SMALLEST_ERROR)
    base = bounded / (1.0 - bounded)
    vote = shrinkage * math.log(1.0 / base)
    if not largest:
        return Round(shares, vote, error, False)
    raised = shares * np.where(scored, base ** (shrinkage * (1.0 - own)), 1.0)
    return Round(raised / raised.sum(), vote, error, False)


def samme(
    weights: Float[np.ndarray, "*S"],
    wrong: Bool[np.ndarray, "*S"],
    *,
    num_classes: int,
    shrinkage: float = 0.5,
    clip: tuple[float, float] = (0.1, 10.0),
) -> Round:
    """One round of SAMME (Zhu, Zou, Rosset and Hastie 2009, "Multi-class AdaBoost") on the pixels of a case.

    With the weighted error E = sum w * wrong / sum w, the vote is shrinkage * (log((1 - E) / E) + log(K - 1)), and a
    wrong pixel's weight is multiplied by exp(vote). Two things are ours. Weights are cut to `clip` times their mean,
    because the noise of borders would draw all weight; then they are scaled to the mean 1. And a weight of 0 stays 0
    and out of every mean: so pixels without a label are left out.

    Weigh the classes (`weights` of the first round) before: else the background decides.

    Args:
      weights: of the pixels, not negative; of any shape.
      wrong: True where the member's class is not the true one.
      num_classes: K, two at least (a sigmoid region: 2).
      shrinkage: above 0 and at most 1; 1 is the paper's.
      clip: bounds of the weights, as multiples of their mean, the lower above 0 and at most 1, the upper 1 at least.

    Returns:
      Round, the mean of its weights above 0 being 1. E >= 1 - 1/K stops. E is taken as 1e-6 where it is smaller.

    Raises:
      UserError: shapes that do not fit, no positive weight, or options out of range.
    """
    given = _positive(weights)
    _check_shrinkage(shrinkage)
    if wrong.shape != given.shape:
        raise UserError(f"wrong should have the shape of the weights, {given.shape}, got {wrong.shape}.")
    if num_classes < 2:
        raise UserError(f"num_classes should be two at least, got {num_classes}; a sigmoid region has two.")
    low, high = clip
    if not 0 < low <= 1 <= high:
        raise UserError(f"clip should be bounds around 1, as (0.1, 10.0), the lower above 0, got {clip}.")
    used = given > 0
    given = given / given[used].mean()
    error = float(given[wrong].sum() / given.sum())
    if error >= 1.0 - 1.0 / num_classes:
        return Round(given, 0.0, error, True)
    bounded = max(error, SMALLEST_ERROR)
    vote = shrinkage * (math.log((1.0 - bounded) / bounded) + math.log(num_classes - 1))
    raised = np.where(wrong, given * math.exp(vote), given)
    mean = raised[used].mean()
    raised = np.where(used, np.clip(raised, low * mean, high * mean), 0.0)
    return Round(raised / raised[used].mean(), vote, error, False)


def vote_probabilities(
    probabilities: Sequence[Float[Array | np.ndarray, "*S K"]],
    votes: Sequence[float] | Float[np.ndarray, "M"],
    *,
    combine: Literal["logarithms", "probabilities"] = "logarithms",
    regions: bool = False,
) -> Float[np.ndarray, "*S K"]:
    """Returns the members' probabilities as one, each with the weight of its vote.

    Drucker's weighted median is not for this: it orders the members by their one number. Vectors of probabilities have
    no order, and medians taken class by class do not sum to 1.

    Args:
      probabilities: one array a member, all of one shape. They are read slab by slab of the first axis, so that
        memory-mapped files (`numpy.load(..., mmap_mode="r")`) need not fit into memory together.
      votes: one a member, not negative, not all 0; only their ratios count.
      combine: "logarithms" is the softmax of the weighted mean of log-probabilities (a geometric mean, scaled to sum
        to 1); "probabilities" the weighted mean itself. Logarithms take probabilities below 1e-7 as that.
      regions: K sigmoids, not classes: their log-odds are averaged in place of the logarithms.

    Returns:
      float32.

    Raises:
      UserError: no member, shapes or votes that do not fit, or an unknown `combine`.
    """
    shares = _vote_shares(probabilities, votes)
    if combine not in ("logarithms", "probabilities"):
        raise UserError(f'combine should be "logarithms" or "probabilities", got {combine!r}.')
    shape = probabilities[0].shape
    arrays = [array if len(shape) > 1 else array[None] for array in probabilities]  # (K,) -> (1, K)
    result = np.empty(arrays[0].shape, np.float32)
    rows = max(1, SLAB_VALUES // max(1, math.prod(result.shape[1:])))
    for start in range(0, len(result), rows):
        slab = slice(start, start + rows)
        parts = [(share, np.asarray(array[slab], np.float32)) for share, array in zip(shares, arrays) if share]
        result[slab] = _mean(parts) if combine == "probabilities" else _geometric_mean(parts, regions)
    return result.reshape(shape)


def boost(
    fit: Callable[[int, np.ndarray], Any],
    losses_of: Callable[[Any], np.ndarray],
    *,
    cases: int,
    rounds: int,
    shrinkage: float = 1.0,
    relative: bool = True,
    patience: int = 0,
    validate: Callable[[tuple[Any, ...], tuple[float, ...]], float] | None = None,
) -> Boosted:
    """Boosts cases with AdaBoost.R2, one round after the other, from equal weights on.

    A round whose member is no better than chance ends the boosting, and its member is not kept; a first member is kept
    all the same, with the vote 1, for there is no other. With `validate` the members up to the best score are kept.

    Args:
      fit: `(round, weights) -> member`, anything; the weights `(N,)` sum to 1 and are, for instance, the probabilities
        of `data.loader.batches(weights=...)`.
      losses_of: `member -> (N,)`, as `adaboost_r2` takes them. On the training cases, as Drucker has it, or on cases
        that the member has not seen.
      cases: N.
      rounds: at most so many.
      shrinkage: above 0 and at most 1.
      relative: see `adaboost_r2`.
      patience: end after so many rounds without a better score; 0 never does. For `validate` only.
      validate: `(members, votes) -> score`, the higher the better, asked after each round; NaN is no better than
        anything. The first of equal scores is the best.

    Raises:
      UserError: numbers out of range, patience without `validate`, or what `adaboost_r2` refuses.
    """
    if cases < 1 or rounds < 1 or patience < 0:
        raise UserError(
            "boost needs one case, one round and a patience of 0 or more, "
            f"got {cases} cases, {rounds} rounds and a patience of {patience}."
        )
    if patience and validate is None:
        raise UserError("patience counts rounds without a better score: give `validate`, or leave patience at 0.")
    _check_shrinkage(shrinkage)
    weights = np.full(cases, 1.0 / cases)
    members: list[Any] = []
    votes: list[float] = []
    history: list[Record] = []
    best, kept = -math.inf, 0
    for number in range(rounds):
        member = fit(number, weights.copy())
        losses = np.asarray(losses_of(member), np.float64)
        after = adaboost_r2(weights, losses, shrinkage=shrinkage, relative=relative)
        if after.stop and members:
            history.append(Record(weights, losses, after.vote, after.error, True, math.nan))
            break
        members.append(member)
        votes.append(1.0 if after.stop else after.vote)
        score = math.nan if validate is None else float(validate(tuple(members), tuple(votes)))
        history.append(Record(weights, losses, votes[-1], after.error, after.stop, score))
        if validate is None or score > best or not kept:
            # A first score of NaN is beaten by any number.
            best, kept = (score if score > best else best), len(members)
        if after.stop or (patience and len(members) - kept >= patience):
            break
        weights = after.weights
    return Boosted(tuple(members[:kept]), tuple(votes[:kept]), tuple(history))


def _mean(parts: list[tuple[float, np.ndarray]]) -> np.ndarray:
    total = np.zeros_like(parts[0][1])
    for share, values in parts:
        total += share * values
    return total


def _geometric_mean(parts: list[tuple[float, np.ndarray]], regions: bool) -> np.ndarray:
    bounded = [(share, np.clip(values, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)) for share, values in parts]
    if regions:
        odds = _mean([(share, np.log(values) - np.log1p(-values)) for share, values in bounded])
        return 1.0 / (1.0 + np.exp(-odds))
    scores = _mean([(share, np.log(values)) for share, values in bounded])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def _vote_shares(probabilities: Sequence, votes: Sequence[float] | Float[np.ndarray, "M"]) -> list[float]:
    """Votes of sum 1, once everything fits."""
    shapes = [tuple(array.shape) for array in probabilities]
    if not shapes or len(set(shapes)) > 1 or not shapes[0]:
        raise UserError(f"probabilities should be arrays of one shape (*S, K), got {shapes}.")
    shares = np.asarray(votes, np.float64)
    if shares.shape != (len(shapes),) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
        raise UserError(f"votes should be {len(shapes)} numbers, none negative and not all 0, got {list(votes)}.")
    return (shares / shares.sum()).tolist()


def _positive(weights: np.ndarray) -> np.ndarray:
    """Weights as float64, scaled so that the largest is 1."""
    values = np.asarray(weights, np.float64)
    if not values.size or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise UserError("weights should be finite, none negative and one at least above 0.")
    return values / values.max()


def _check_shrinkage(shrinkage: float) -> None:
    if not 0 < shrinkage <= 1:
        raise UserError(f"shrinkage should be above 0 and at most 1, got {shrinkage}.")


def _told(losses: np.ndarray, shares: np.ndarray) -> str:
    """Losses for a message, without printing thousands of them."""
    scored = losses[~np.isnan(losses)]
    spread = f" from {scored.min():g} to {scored.max():g}" if scored.size else ""
    return f"{losses.size} losses for {shares.size} weights, {scored.size} of them scored{spread}"
