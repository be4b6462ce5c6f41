"""The environment of operators: each action against scipy, and the laws of an episode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.rl import operators
from jaxseg.rl.operators import OPERATORS, STOP, Rules

RULES = Rules(steps=8, threshold=0.1, iterations=1, radius=2, cost=0.01)
KEY = jax.random.key(0)
SHAPE = (13, 18)


def case(shape=SHAPE, seed=0):
    """A smooth probability with holes and islands, another smooth mask as the truth, and pixels that nobody saw."""
    draw = np.random.default_rng(seed)
    noise, other = (ndimage.gaussian_filter(draw.normal(size=shape), 1.0) for _ in range(2))
    probability = (1 / (1 + np.exp(-4 * noise / noise.std()))).astype(np.float32)
    return (
        jnp.asarray(probability),
        jnp.asarray(noise + other > 0.2 * noise.std()),
        jnp.asarray(draw.random(shape) < 0.8),
    )


def run(state, actions):
    """The states after each of nine actions, the rewards and the dones; a shorter list goes on with "stop"."""
    return play(state, jnp.asarray([*actions, *[STOP] * (9 - len(actions))]))


@jax.jit
def play(state, actions):
    def one(state, action):
        state, reward, done = operators.step(state, action, KEY, rules=RULES)
        return state, (state, reward, done)

    return jax.lax.scan(one, state, actions)[1]


def largest(mask):
    numbers, _ = ndimage.label(mask)
    return numbers == 1 + np.bincount(numbers.ravel())[1:].argmax()


def wide(function, mask):
    """As on an unbounded grid, which scipy's closing does not have."""
    return function(np.pad(mask, 4), iterations=2)[(slice(4, -4),) * mask.ndim]


@pytest.mark.parametrize("shape", [SHAPE, (6, 9, 8)])
def test_each_action_does_what_scipy_does(shape):
    probability, true, seen = case(shape)
    p = np.asarray(probability)
    mask = p > 0.5
    expected = {
        "threshold_down": p > np.float32(0.4),
        "threshold_up": p > np.float32(0.6),
        "dilate": ndimage.binary_dilation(mask),
        "erode": ndimage.binary_erosion(mask),
        "open": wide(ndimage.binary_opening, mask),
        "close": wide(ndimage.binary_closing, mask),
        "fill": ndimage.binary_fill_holes(mask),
        "largest": largest(mask),
        "stop": mask,
    }
    assert tuple(expected) == OPERATORS
    state = operators.reset(probability, true, seen)
    np.testing.assert_array_equal(state.mask, mask)
    masks, thresholds = jax.jit(functools.partial(operators.outcomes, rules=RULES))(state)
    for place, name in enumerate(OPERATORS):
        np.testing.assert_array_equal(masks[place], expected[name], err_msg=name)
    np.testing.assert_allclose(thresholds, [0.4, 0.6, *[0.5] * 7], atol=1e-6)


def test_a_threshold_starts_the_mask_anew_and_stays_between_its_limits():
    state = operators.reset(*case())
    dilate, up, down = (OPERATORS.index(name) for name in ("dilate", "threshold_up", "threshold_down"))
    states, _, _ = run(state, [dilate, dilate, *[up] * 5, down])
    np.testing.assert_array_equal(states.mask[2], state.probability > np.float32(0.6))
    np.testing.assert_allclose(states.threshold[:8], [0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.85], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_rewards_telescope_to_the_gain_in_dice_less_the_costs(seed):
    probability, true, seen = case(seed=seed)
    state = operators.reset(probability, true, seen)
    actions = np.random.default_rng(seed).integers(0, len(OPERATORS), RULES.steps)
    states, rewards, _ = run(state, actions)
    taken = list(actions).index(STOP) if STOP in actions else len(actions)
    first = operators.dice(state.mask, true, seen)
    last = operators.dice(states.mask[-1], true, seen)
    np.testing.assert_allclose(rewards.sum(), last - first - 0.01 * taken, atol=1e-6)
    assert abs(float(rewards[0])) > 0  # else there were nothing to add up


def test_after_stop_nothing_changes():
    state = operators.reset(*case())
    erode = OPERATORS.index("erode")
    states, rewards, dones = run(state, [erode, STOP, erode, erode, STOP])
    assert list(dones) == [False, *[True] * 8] and list(states.time) == [1, *[2] * 8]
    np.testing.assert_array_equal(rewards[1:], 0)  # stopping itself is free
    for later in range(1, 9):
        np.testing.assert_array_equal(states.mask[later], states.mask[0])
    assert (states.mask[0] != state.mask).any()


def test_an_episode_ends_after_its_last_step():
    down, up = OPERATORS.index("threshold_down"), OPERATORS.index("threshold_up")
    states, rewards, dones = run(operators.reset(*case()), [down, up] * 4 + [down])
    assert list(dones) == [False] * 7 + [True, True]
    assert rewards[7] != 0 and rewards[8] == 0 and (states.mask[8] == states.mask[7]).all()


def test_dice_of_what_is_seen_by_hand():
    mask, true = jnp.array([True, True, True, False, False]), jnp.array([True, True, False, True, False])
    assert float(operators.dice(mask, true, jnp.ones(5, bool))) == pytest.approx(2 * 2 / 6)
    assert float(operators.dice(mask, true, jnp.array([True, True, False, True, True]))) == pytest.approx(2 * 2 / 5)
    assert float(operators.dice(mask, true, jnp.array([False, False, False, False, True]))) == 1  # empty and empty
    assert float(operators.dice(mask, ~mask, jnp.ones(5, bool))) == 0


def test_what_nobody_saw_changes_no_reward():
    probability, true, seen = case()
    actions = [OPERATORS.index(name) for name in ("dilate", "close", "threshold_up", "largest", "fill")]
    _, rewards, _ = run(operators.reset(probability, true, seen), actions)
    _, others, _ = run(operators.reset(probability, true ^ ~seen, seen), actions)
    np.testing.assert_array_equal(rewards, others)
    _, shown, _ = run(operators.reset(probability, true ^ ~seen, jnp.ones_like(seen)), actions)
    assert (rewards != shown).any()


def test_a_batch_is_its_images_one_by_one():
    cases = [case(seed=seed) for seed in range(3)]
    states = jax.vmap(operators.reset)(*(jnp.stack(parts) for parts in zip(*cases)))
    actions = jnp.array([[0, 6, 7, 2, 8, 1, 1, 1, 1], [5, 2, 8, 3, 3, 3, 3, 3, 3], [7, 4, 1, 3, 0, 5, 6, 2, 8]])
    together, rewards, _ = jax.vmap(play)(states, actions)
    for number, own in enumerate(cases):
        alone, single, _ = play(operators.reset(*own), actions[number])
        np.testing.assert_array_equal(together.mask[number], alone.mask)
        np.testing.assert_allclose(rewards[number], single, atol=1e-7)


def test_a_policy_sees_probability_mask_threshold_and_time():
    state = operators.reset(*case())._replace(time=jnp.int32(2), threshold=jnp.float32(0.4))
    seen = np.asarray(operators.observe(state, rules=RULES))
    assert seen.shape == (*SHAPE, operators.CHANNELS)
    np.testing.assert_allclose(seen[..., 0], 2 * np.asarray(state.probability) - 1, atol=1e-6)
    np.testing.assert_array_equal(seen[..., 1], np.where(state.mask, 1, -1))
    np.testing.assert_allclose(seen[..., 2:], np.broadcast_to([0.4, 2 / 8], (*SHAPE, 2)), atol=1e-6)
    beyond = operators.observe(state._replace(time=jnp.int32(9)), rules=RULES)
    np.testing.assert_allclose(beyond[..., 3], 7 / 8, atol=1e-6)
    blind = operators.observe(state._replace(true=~state.true, seen=~state.seen), rules=RULES)
    np.testing.assert_array_equal(blind, seen)
