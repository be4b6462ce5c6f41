"""What an agent over operators is measured against: thresholds, fixed sequences, chance, and one that knows the truth.

All take N planes at once: `probability`, `true` and `seen`, each `(N, *S)`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxseg.rl import operators
from jaxseg.rl.operators import OPERATORS, STOP, Rules, State

THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(1, 20))


class Played(NamedTuple):
    """N episodes of T actions.

    Attributes:
      actions: of each step, places in `OPERATORS`; "stop" from the end of an episode on.
      dice: before the first action and after each.
      mask: after the last.
    """

    actions: Int[Array, "N T"]
    dice: Float[Array, "N T+1"]
    mask: Bool[Array, "N *S"]


class Searched(NamedTuple):
    """What all sequences up to a length reach on N planes.

    Attributes:
      actions: of the sequence with the highest mean Dice; of several such the shortest, then the first.
      dice: that mean.
      possible: of each plane, the highest Dice that any sequence reaches on it.
    """

    actions: tuple[int, ...]
    dice: float
    possible: Float[np.ndarray, "N"]


def best_sequence(
    probability: Float[Array, "N *S"],
    true: Bool[Array, "N *S"],
    seen: Bool[Array, "N *S"],
    *,
    rules: Rules,
    length: int = 3,
) -> Searched:
    """Tries all sequences of at most `length` actions but "stop", `8**length` of the longest, none but the empty twice.

    Sequences share the work of what they begin with. Costs are not counted.
    """
    start = _reset(probability, true, seen)
    first = np.asarray(_dice(start), np.float64)
    found = Searched((), float(first.mean()), first)

    def walk(states: State, before: tuple[int, ...]) -> None:
        nonlocal found
        children, dice = _children(states, rules=rules)
        values = np.asarray(dice, np.float64)  # (A, N)
        for action, own in enumerate(values):
            if action == STOP:
                continue
            actions = (*before, action)
            if (own.mean(), -len(actions)) > (found.dice, -len(found.actions)):
                found = found._replace(actions=actions, dice=float(own.mean()))
            if len(actions) < length:
                walk(jax.tree.map(lambda leaf, place=action: leaf[place], children), actions)
        found = found._replace(possible=np.maximum(found.possible, values.max(0)))

    if length:
        walk(start, ())
    return found


def apply_sequence(
    probability: Float[Array, "N *S"],
    true: Bool[Array, "N *S"],
    seen: Bool[Array, "N *S"],
    actions: Sequence[int],
    *,
    rules: Rules,
) -> Played:
    """Plays one sequence on all planes, however many steps it has."""
    repeated = jnp.broadcast_to(jnp.asarray(tuple(actions), jnp.int32), (len(probability), len(actions)))
    return play(probability, true, seen, repeated, rules=rules._replace(steps=len(actions)))


def random_policy(
    key: Array,
    probability: Float[Array, "N *S"],
    true: Bool[Array, "N *S"],
    seen: Bool[Array, "N *S"],
    *,
    rules: Rules,
) -> Played:
    """Plays `rules.steps` actions drawn at random, "stop" among them; plane n draws from `fold_in(key, n)`."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(probability)))
    actions = jax.vmap(lambda own: jax.random.randint(own, (rules.steps,), 0, len(OPERATORS)))(keys)
    return play(probability, true, seen, actions, rules=rules)


@functools.partial(jax.jit, static_argnames="rules")
def play(
    probability: Float[Array, "N *S"],
    true: Bool[Array, "N *S"],
    seen: Bool[Array, "N *S"],
    actions: Int[Array, "N T"],
    *,
    rules: Rules,
) -> Played:
    """Plays given actions, plane by plane; what follows a "stop" is not played."""

    def one(states: State, action: Int[Array, "N"]):
        action = jnp.where(states.done, STOP, action)
        states, _, _ = jax.vmap(lambda state, own: operators.step(state, own, rules=rules))(states, action)
        return states, (action, _dice(states))

    return _played(one, _reset(probability, true, seen), actions.T)


@functools.partial(jax.jit, static_argnames="rules")
def greedy_oracle(
    probability: Float[Array, "N *S"], true: Bool[Array, "N *S"], seen: Bool[Array, "N *S"], *, rules: Rules
) -> Played:
    """Plays at each step the action with the highest reward, which it knows; stops where none is above 0."""

    def one(states: State, _):
        masks, thresholds = jax.vmap(functools.partial(operators.outcomes, rules=rules))(states)
        after = jax.vmap(jax.vmap(operators.dice, (0, None, None)))(masks, states.true, states.seen)
        gain = (after - _dice(states)[:, None] - rules.cost).at[:, STOP].set(0.0)
        action = jnp.where(states.done | (gain.max(-1) <= 0), STOP, gain.argmax(-1)).astype(jnp.int32)
        decide = jax.vmap(functools.partial(operators.decide, rules=rules))
        states, _, _ = decide(states, action, masks, thresholds)
        return states, (action, _dice(states))

    return _played(one, _reset(probability, true, seen), jnp.arange(rules.steps))


def best_threshold(
    probability: Float[Array, "N *S"],
    true: Bool[Array, "N *S"],
    seen: Bool[Array, "N *S"],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[float, float]:
    """Returns the threshold of the probability with the highest mean Dice, and that mean; of equal ones the lowest."""
    means = np.asarray(threshold_dice(probability, true, seen, thresholds=tuple(thresholds))).mean(0, dtype=np.float64)
    return thresholds[int(means.argmax())], float(means.max())


@functools.partial(jax.jit, static_argnames="thresholds")
def threshold_dice(
    probability: Float[Array, "N *S"],
    true: Bool[Array, "N *S"],
    seen: Bool[Array, "N *S"],
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Float[Array, "N M"]:
    """Returns the Dice of each plane at each threshold."""

    def one(threshold: Array) -> Float[Array, "N"]:
        return jax.vmap(operators.dice)(probability > threshold, true, seen)

    return jax.lax.map(one, jnp.asarray(thresholds, jnp.float32)).T


def _reset(probability: Array, true: Array, seen: Array) -> State:
    return jax.vmap(operators.reset)(probability, true, seen)


def _dice(states: State) -> Float[Array, "N"]:
    return jax.vmap(operators.dice)(states.mask, states.true, states.seen)


def _played(one, states: State, inputs: Array) -> Played:
    first = _dice(states)
    states, (actions, dice) = jax.lax.scan(one, states, inputs)
    return Played(actions.T, jnp.concatenate([first[None], dice]).T, states.mask)


@functools.partial(jax.jit, static_argnames="rules")
def _children(states: State, *, rules: Rules) -> tuple[State, Float[Array, "A N"]]:
    """The states after each action, and their Dice."""

    def child(state: State, mask: Array, threshold: Array) -> tuple[State, Array]:
        return state._replace(mask=mask, threshold=threshold), operators.dice(mask, state.true, state.seen)

    masks, thresholds = jax.vmap(functools.partial(operators.outcomes, rules=rules))(states)
    children = jax.vmap(jax.vmap(child, (None, 0, 0)))(states, masks, thresholds)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), children)  # (A, N, ...)
