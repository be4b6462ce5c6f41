"""The replay buffer against a list in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.rl import replay
from jaxseg.rl.replay import Episodes

SHAPE, CHANNELS, STEPS, CAPACITY = (3, 5), 2, 4, 5  # 15 pixels: not a whole number of bytes
KEY = jax.random.key(0)
draw = jax.jit(replay.draw, static_argnums=2)
take = jax.jit(replay.take)


def episodes(count, seed=0):
    rng = np.random.default_rng(seed)
    return Episodes(
        image=jnp.asarray(rng.normal(size=(count, *SHAPE, CHANNELS)), jnp.float32),
        probability=jnp.asarray(rng.random((count, *SHAPE)), jnp.float32),
        plane=jnp.asarray(rng.integers(0, 3, count), jnp.int32),
        masks=jnp.asarray(rng.random((count, STEPS + 1, *SHAPE)) < 0.5),
        thresholds=jnp.asarray(rng.random((count, STEPS + 1)), jnp.float32),
        actions=jnp.asarray(rng.integers(0, 9, (count, STEPS)), jnp.int32),
        rewards=jnp.asarray(rng.normal(size=(count, STEPS)), jnp.float32),
        lengths=jnp.asarray(rng.integers(1, STEPS + 1, count), jnp.int32),
    )


def filled(*parts):
    buffer = replay.empty(CAPACITY, SHAPE, channels=CHANNELS, steps=STEPS)
    for part in parts:
        buffer = jax.jit(replay.add)(buffer, part)
    return buffer


def expected(memory, place, step):
    """The transition that a list of episodes holds."""
    own = jax.tree.map(lambda x: np.asarray(x[place]), memory)
    half = (own.image.astype(np.float16), own.probability.astype(np.float16))
    now = (own.masks[step], own.thresholds[step], step, own.actions[step], own.rewards[step])
    return (*half[:2], own.plane, *now, own.masks[step + 1], own.thresholds[step + 1], step + 1 == own.lengths)


def test_new_episodes_take_the_place_of_the_oldest():
    first, second = episodes(3), episodes(4, seed=1)
    buffer = filled(first, second)
    assert int(buffer.filled) == CAPACITY and int(buffer.place) == 2
    memory = [None] * CAPACITY
    for number, own in enumerate([(first, i) for i in range(3)] + [(second, i) for i in range(4)]):
        memory[number % CAPACITY] = own
    for place, (source, number) in enumerate(memory):
        for step in range(int(source.lengths[number])):
            taken = take(buffer, jnp.array([place]), jnp.array([step]))
            for found, wanted in zip(taken, expected(source, number, step)):
                np.testing.assert_array_equal(np.asarray(found[0]), wanted)


def test_every_stored_action_is_as_likely_as_the_others_and_no_other_is_drawn():
    stored = episodes(3)._replace(lengths=jnp.array([1, 4, 2]))
    drawn = draw(KEY, filled(stored), 2000)
    numbers = np.asarray(jnp.argmin(jnp.abs(stored.thresholds[:, :-1, None] - drawn.threshold).reshape(12, -1), axis=0))
    counts = np.bincount(numbers, minlength=12).reshape(3, 4)
    valid = np.arange(4) < np.array([[1], [4], [2]])
    assert (counts[~valid] == 0).all()
    np.testing.assert_allclose(counts[valid], 2000 / 7, rtol=0.2)  # of a binomial with a deviation of 16
    np.testing.assert_array_equal(drawn.done, drawn.time + 1 == stored.lengths[numbers // 4])


def test_a_draw_is_told_by_its_key_and_devices_share_it():
    buffer = filled(episodes(4))
    whole = draw(KEY, buffer, 6)
    np.testing.assert_array_equal(draw(KEY, buffer, 6).reward, whole.reward)
    assert (draw(jax.random.key(1), buffer, 6).reward != whole.reward).any()
    halves = [draw(KEY, buffer, 3, first=first) for first in (0, 3)]
    for part, leaf in zip(zip(*halves), whole):
        np.testing.assert_array_equal(np.concatenate(part), leaf)


def test_no_leaf_is_a_real_number_that_devices_would_average():
    assert not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in filled(episodes(2)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="room for one episode"):
        replay.empty(0, SHAPE, channels=CHANNELS, steps=STEPS)
    with pytest.raises(ValueError, match="for 5 episodes got 6"):
        filled(episodes(6))
