"""Several networks of one architecture as one network: means of their weights, and the straight line between them.

Trees are what a network is applied with: nested dictionaries of arrays. Of a network with BatchNorm, the mean of the
running statistics is not the statistics of the mean weights: pass training data through once before it is judged
(Izmailov et al. 2018, section 3.2). Networks with other normalisations need nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxseg.ensemble.shares import shares_of

ScoreFn = Callable[[PyTree], Any]  # tree -> a number; higher is better


class RunningWeights(NamedTuple):
    """The mean of the trees seen so far; arrays only, so that it passes through jit and into a checkpoint.

    Attributes:
      mean: as the trees, with leaves of half precision as float32.
      number: int32, how many trees it is the mean of.
    """

    mean: PyTree
    number: Array


class Soup(NamedTuple):
    """What `greedy_soup` made.

    Attributes:
      tree: the mean of the chosen ingredients.
      chosen: their places in `trees`, in the order in which they were added.
      scores: by place: the score of the soup with this ingredient, when it was tried (the first one's own score); NaN
        for one never tried.
      own: by place: the ingredient's own score; NaN where it was not asked for.
    """

    tree: PyTree
    chosen: tuple[int, ...]
    scores: tuple[float, ...]
    own: tuple[float, ...]


class InterpolationPath(NamedTuple):
    """Scores along the straight line between two trees.

    Attributes:
      positions: `(P,)` from 0 (the first tree) to 1 (the second), evenly spaced.
      scores: `(P,)`.
      barrier: the largest drop below the line between the scores of the ends, 0 or more; NaN if a score is.
    """

    positions: np.ndarray
    scores: np.ndarray
    barrier: float


def average_weights(
    trees: Sequence[PyTree], *, shares: Sequence[float] | Float[np.ndarray, " M"] | None = None
) -> PyTree:
    """Returns the mean of parameter trees of one structure: of checkpoints of a run, or of runs from one start.

    Sums are float32 and the dtypes of the first tree are kept. Integer and boolean leaves (counters) have no mean: they
    must be equal, which is checked wherever their values are known (not under jit).

    Sources: Izmailov et al., UAI 2018 (stochastic weight averaging); Wortsman et al., ICML 2022 (uniform soup).

    Args:
      trees: M parameter trees.
      shares: one non-negative number a tree, scaled to sum to one; None weighs all alike.

    Raises:
      ValueError: no tree, shares that do not fit, or a leaf that differs in name, shape or kind, or in the value of
        an integer; the first such leaf is named.
    """
    trees = list(trees)
    _check_alike(trees)
    parts = shares_of(shares, len(trees), name="shares").tolist()

    def mean(first: Array, *rest: Array) -> Array:
        first = jnp.asarray(first)
        if not _has_mean(first):
            return first
        total = parts[0] * _wide(first)
        for part, leaf in zip(parts[1:], rest):
            total = total + part * _wide(leaf)
        return total.astype(first.dtype)

    return jax.tree.map(mean, *trees)


def start(tree: PyTree) -> RunningWeights:
    """Returns the running mean of one tree; `update` adds more. Source: Izmailov et al., UAI 2018, algorithm 1."""
    return RunningWeights(jax.tree.map(_wide, tree), jnp.ones((), jnp.int32))


def update(running: RunningWeights, tree: PyTree) -> RunningWeights:
    """Returns the running mean with one more tree; safe under jit.

    After the last tree, `finish` gives what `average_weights` gives of all, and only one mean was ever held.

    Raises:
      ValueError: a leaf that differs in name, shape or kind, or (not under jit) in the value of an integer.
    """
    _check_alike([running.mean, tree])
    number = running.number + 1

    def step(mean: Array, leaf: Array) -> Array:
        return mean + (_wide(leaf) - mean) / number.astype(mean.dtype) if _has_mean(mean) else mean

    return RunningWeights(jax.tree.map(step, running.mean, tree), number)


def finish(running: RunningWeights, like: PyTree) -> PyTree:
    """Returns the mean in the dtypes of `like`, any of the trees it was made of.

    Raises:
      ValueError: a leaf that differs in name, shape or kind, or (not under jit) in the value of an integer.
    """
    _check_alike([running.mean, like])
    return jax.tree.map(lambda mean, leaf: mean.astype(jnp.asarray(leaf).dtype), running.mean, like)


def greedy_soup(score: ScoreFn, trees: Sequence[PyTree], *, order: Sequence[int] | None = None) -> Soup:
    """Returns the mean of those trees that help: best first, each stays in if the score does not fall by it.

    Source: Wortsman et al., ICML 2022, recipe 1. The score should be of validation data that no tree was trained on.

    Args:
      score: `tree -> float`, higher is better. It is called once for each tree by itself (with `order`: for the first
        one only) and once for each mean that is tried. What scores NaN is never chosen.
      trees: the ingredients, alike in structure.
      order: places of the trees to try, best first, where their own scores are known; None asks for them and sorts,
        equal scores in the order given.

    Raises:
      ValueError: no tree, trees that differ, an order that does not fit, or no score that is a number.
    """
    trees = list(trees)
    _check_alike(trees)
    order = _checked_order(order, len(trees))
    own = np.full(len(trees), np.nan)
    if order is None:
        own = np.array([float(score(tree)) for tree in trees])
        ranked = np.argsort(np.where(np.isnan(own), np.inf, -own), kind="stable")
        order = [int(place) for place in ranked if not np.isnan(own[place])]
    scores = np.full(len(trees), np.nan)
    chosen: list[int] = []
    best, running = np.nan, None
    for place in order:
        if running is None:  # a soup of one is the tree itself
            if np.isnan(own[place]):
                own[place] = float(score(trees[place]))
            scores[place] = own[place]
            candidate = start(trees[place])
        else:
            candidate = update(running, trees[place])
            scores[place] = float(score(finish(candidate, trees[chosen[0]])))
        if scores[place] >= best or (running is None and not np.isnan(scores[place])):
            best, running = scores[place], candidate
            chosen.append(place)
    if running is None:
        raise ValueError("No tree has a score that is a number; a soup needs one to start from.")
    return Soup(finish(running, trees[chosen[0]]), tuple(chosen), tuple(scores.tolist()), tuple(own.tolist()))


def interpolation_path(score: ScoreFn, first: PyTree, second: PyTree, *, points: int = 5) -> InterpolationPath:
    """Returns the scores along the straight line between two trees, and the barrier between them.

    Networks without a barrier between them lie in one basin, and their mean is worth trying; where it is high, average
    their probabilities instead. Source: Frankle et al., ICML 2020 (linear mode connectivity); the
    drop is taken from the line between the ends, as in Entezari et al., ICLR 2022, not from their mean.

    Args:
      score: `tree -> float`, higher is better; called `points` times.
      first: parameter tree at position 0.
      second: parameter tree at position 1, alike in structure.
      points: how many positions, both ends included.

    Raises:
      ValueError: trees that differ, or fewer than two points.
    """
    if points < 2:
        raise ValueError(f"points should be 2 or more, both ends included, got {points}.")
    _check_alike([first, second])
    positions = np.linspace(0.0, 1.0, points)
    trees = (_between(first, second, float(position)) for position in positions)  # one is held at a time
    scores = np.array([float(score(tree)) for tree in trees])
    line = (1 - positions) * scores[0] + positions * scores[-1]
    drops = (line - scores)[1:-1]  # the ends lie on the line
    barrier = np.nan if np.isnan(scores).any() else float(np.max(drops, initial=0.0))
    return InterpolationPath(positions, scores, barrier)


def _between(first: PyTree, second: PyTree, position: float) -> PyTree:
    if position in (0.0, 1.0):  # an end is the tree itself, to the last bit and where it is not finite
        return second if position else first
    return average_weights([first, second], shares=[1 - position, position])


def _wide(leaf: Array) -> Array:
    """Returns the leaf in the precision of sums: half precision becomes float32, integers stay."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if _has_mean(leaf) else leaf


def _has_mean(leaf: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _name(path) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part)))) for part in path)


def _check_alike(trees: Sequence[PyTree]) -> None:
    """Raises ValueError with the name of the first leaf that is not in all trees, with one shape and kind."""
    if not trees:
        raise ValueError("A mean of weights needs at least one tree, got none.")
    structures: list[Any] = [jax.tree.structure(tree) for tree in trees]
    first = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(trees[0])[0]}
    for number, tree in enumerate(trees[1:], start=1):
        other = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
        odd = next((name for name in (*first, *other) if name not in first or name not in other), None)
        if odd is not None:
            with_it, without = (0, number) if odd in first else (number, 0)
            raise ValueError(f"All trees should have the same leaves; {odd!r} is in tree {with_it}, not in {without}.")
        for name, leaf in first.items():
            _check_leaf(name, number, leaf, other[name])
        if structures[0] != structures[number]:  # equal names in other containers
            raise ValueError(f"All trees should be of the same containers; tree {number} differs from tree 0.")


def _check_leaf(name: str, number: int, leaf: Any, other: Any) -> None:
    if np.shape(leaf) != np.shape(other):
        raise ValueError(
            f"Leaf {name!r} should have one shape: {np.shape(leaf)} in tree 0, {np.shape(other)} in {number}."
        )
    if _has_mean(leaf) != _has_mean(other):
        kinds = f"{jnp.result_type(leaf)} in tree 0, {jnp.result_type(other)} in {number}"
        raise ValueError(f"Leaf {name!r} should be of one kind, with or without fractions: {kinds}.")
    known = not isinstance(leaf, jax.core.Tracer) and not isinstance(other, jax.core.Tracer)
    if known and not _has_mean(leaf) and not np.array_equal(leaf, other):
        raise ValueError(f"Leaf {name!r} holds integers, which have no mean, and they differ in tree 0 and {number}.")


def _checked_order(order: Sequence[int] | None, number: int) -> list[int] | None:
    if order is None:
        return None
    places = [int(place) for place in order]
    if not places or len(set(places)) < len(places) or not all(0 <= place < number for place in places):
        raise ValueError(f"order should hold places from 0 to {number - 1}, each once at most, got {places}.")
    return places
