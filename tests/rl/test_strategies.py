"""Fixed sequences, thresholds, chance and the oracle, each against the environment itself or numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.rl import strategies
from jaxseg.rl.operators import OPERATORS, STOP, Rules

RULES = Rules(steps=4, threshold=0.15, radius=1, cost=0.002)
COUNT, SHAPE = 3, (9, 14)


@pytest.fixture(scope="module")
def planes():
    """Probabilities that are too high beside the object, and have holes and islands."""
    draw = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(draw.normal(size=(2, COUNT, *SHAPE)), (0, 0, 1.5, 1.5))
    smooth /= smooth.std()
    true, noisy = smooth[0] > 0.4, smooth[0] + 0.6 * smooth[1]
    probability = (1 / (1 + np.exp(-2 * noisy - 1))).astype(np.float32)
    return jnp.asarray(probability), jnp.asarray(true), jnp.asarray(draw.random((COUNT, *SHAPE)) < 0.9)


def dice_of(mask, true, seen):
    """By numpy, of each plane."""
    mask, true, axes = np.asarray(mask & seen), np.asarray(true & seen), (1, 2)
    return 2 * (mask & true).sum(axes) / (mask.sum(axes) + true.sum(axes))


def test_the_search_finds_what_trying_each_sequence_finds(planes):
    found = strategies.best_sequence(*planes, rules=RULES, length=2)
    tried = {(): dice_of(planes[0] > 0.5, *planes[1:])}
    pairs = list(itertools.product(range(len(OPERATORS) - 1), repeat=2))
    repeated = (jnp.tile(part, (len(pairs), 1, 1)) for part in planes)
    played = strategies.play(*repeated, jnp.repeat(jnp.array(pairs), COUNT, axis=0), rules=RULES)
    for actions, dice in zip(pairs, np.asarray(played.dice).reshape(len(pairs), COUNT, 3)):
        tried[actions[:1]], tried[actions] = dice[:, 1], dice[:, 2]
    assert len(tried) == 1 + 8 + 64
    highest = max(values.mean(dtype=np.float64) for values in tried.values())
    assert found.dice == pytest.approx(highest, abs=1e-7) and found.dice > tried[()].mean() + 0.01
    assert tried[found.actions].mean(dtype=np.float64) == pytest.approx(highest, abs=1e-7)
    assert len(found.actions) == min(len(a) for a, v in tried.items() if v.mean(dtype=np.float64) > highest - 1e-7)
    np.testing.assert_allclose(found.possible, np.max(list(tried.values()), axis=0), atol=1e-7)


def test_a_search_of_no_length_finds_the_start(planes):
    found = strategies.best_sequence(*planes, rules=RULES, length=0)
    assert found.actions == () and found.dice == pytest.approx(dice_of(planes[0] > 0.5, *planes[1:]).mean(), abs=1e-6)


def test_the_oracles_actions_reach_its_score_in_the_environment(planes):
    known = strategies.greedy_oracle(*planes, rules=RULES)
    again = strategies.play(*planes, known.actions, rules=RULES)
    np.testing.assert_array_equal(again.dice, known.dice)
    np.testing.assert_array_equal(again.mask, known.mask)
    np.testing.assert_allclose(known.dice[:, -1], dice_of(known.mask, *planes[1:]), atol=1e-6)
    assert (np.diff(known.dice, axis=1) >= 0).all() and (known.dice[:, -1] > known.dice[:, 0]).all()


def test_the_oracle_takes_the_action_that_gains_most_and_stops_where_none_does(planes):
    known = strategies.greedy_oracle(*planes, rules=RULES)
    for time in range(RULES.steps):
        before = known.actions[:, :time]
        after = []
        for action in range(len(OPERATORS) - 1):
            tried = jnp.concatenate([before, jnp.full((COUNT, RULES.steps - time), action)], axis=1)
            after.append(np.asarray(strategies.play(*planes, tried, rules=RULES).dice[:, time + 1]))
        gain = np.array(after) - np.asarray(known.dice[:, time]) - RULES.cost  # (A - 1, N)
        stopped = (np.asarray(before) == STOP).any(1)
        np.testing.assert_array_equal(known.actions[:, time] == STOP, stopped | (gain.max(0) <= 0))
        for place in np.flatnonzero(known.actions[:, time] != STOP):
            assert gain[known.actions[place, time], place] == gain[:, place].max()


def test_what_follows_a_stop_is_not_played(planes):
    dilate = OPERATORS.index("dilate")
    played = strategies.apply_sequence(*planes, (dilate, STOP, dilate, dilate), rules=RULES)
    np.testing.assert_array_equal(played.actions, [[dilate, STOP, STOP, STOP]] * COUNT)
    np.testing.assert_array_equal(played.dice[:, 1:], np.repeat(played.dice[:, 1:2], 4, axis=1))
    np.testing.assert_allclose(played.dice[:, -1], dice_of(played.mask, *planes[1:]), atol=1e-6)


def test_chance_is_told_by_its_key_and_by_each_planes_place(planes):
    first, again = (strategies.random_policy(jax.random.key(0), *planes, rules=RULES) for _ in range(2))
    np.testing.assert_array_equal(first.actions, again.actions)
    turned = strategies.random_policy(jax.random.key(0), *(part[::-1] for part in planes), rules=RULES)
    stop = np.cumsum(first.actions == STOP, axis=1) > 0
    np.testing.assert_array_equal(turned.actions, first.actions)
    np.testing.assert_array_equal(stop, first.actions == STOP)
    other = strategies.random_policy(jax.random.key(1), *planes, rules=RULES)
    assert (other.actions != first.actions).any() and len(np.unique(first.actions)) > 3


def test_the_best_threshold_by_numpy(planes):
    probability, true, seen = planes
    means = {limit: dice_of(probability > np.float32(limit), true, seen).mean() for limit in strategies.THRESHOLDS}
    threshold, dice = strategies.best_threshold(*planes)
    assert means[threshold] == pytest.approx(max(means.values()), abs=1e-6) == dice
    assert threshold > 0.5  # the probability was too high
    each = strategies.threshold_dice(*planes, thresholds=(0.3, 0.6))
    np.testing.assert_allclose(each[:, 1], dice_of(probability > np.float32(0.6), true, seen), atol=1e-6)
