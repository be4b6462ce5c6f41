"""A memory of episodes as arrays of fixed shape, so that it lives in a training state and is checkpointed with it.

    buffer = replay.empty(200, (64, 64), channels=3, steps=6)
    buffer = replay.add(buffer, episodes)
    transitions = replay.draw(key, buffer, 64)

An image is stored once an episode, and a mask takes one bit a pixel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt


class Episodes(NamedTuple):
    """N whole episodes of at most T actions.

    Attributes:
      image: what is decided on.
      probability: of yes, which the thresholds are taken of.
      plane: which of the planes it is.
      masks: before the first action and after each.
      thresholds: the same.
      actions, rewards: of each step; those after the last action mean nothing.
      lengths: actions taken, 1 or more; the last one ends the episode.
    """

    image: Float[Array, "N *S C"]
    probability: Float[Array, "N *S"]
    plane: Int[Array, "N"]
    masks: Bool[Array, "N T+1 *S"]
    thresholds: Float[Array, "N T+1"]
    actions: Int[Array, "N T"]
    rewards: Float[Array, "N T"]
    lengths: Int[Array, "N"]


class Buffer(NamedTuple):
    """M places for episodes, of which the first `filled` are taken; the next one goes to the place `place`.

    Images and probabilities are float16, kept as integers of the same bits: what is no real number is left alone where
    a training step takes the mean of a state over devices. Masks are bits, eight pixels a byte.
    """

    image: UInt[Array, "M *S C"]
    probability: UInt[Array, "M *S"]
    plane: Int[Array, "M"]
    masks: UInt[Array, "M T+1 bytes"]
    thresholds: UInt[Array, "M T+1"]
    actions: Int[Array, "M T"]
    rewards: UInt[Array, "M T"]
    lengths: Int[Array, "M"]
    place: Int[Array, ""]
    filled: Int[Array, ""]


class Transitions(NamedTuple):
    """N single actions: what was seen (image, probability, plane), the state before and after, and what came of it."""

    image: Float[Array, "N *S C"]
    probability: Float[Array, "N *S"]
    plane: Int[Array, "N"]
    mask: Bool[Array, "N *S"]
    threshold: Float[Array, "N"]
    time: Int[Array, "N"]
    action: Int[Array, "N"]
    reward: Float[Array, "N"]
    next_mask: Bool[Array, "N *S"]
    next_threshold: Float[Array, "N"]
    done: Bool[Array, "N"]


def empty(capacity: int, shape: Sequence[int], *, channels: int, steps: int) -> Buffer:
    """Returns a buffer for `capacity` episodes of at most `steps` actions on images `(*shape, channels)`.

    Raises:
      ValueError: there is no room for one episode.
    """
    if capacity < 1:
        raise ValueError(f"A replay buffer needs room for one episode or more; its capacity is {capacity}.")
    shape = tuple(shape)
    blank = Episodes(
        image=jnp.zeros((capacity, *shape, channels)),
        probability=jnp.zeros((capacity, *shape)),
        plane=jnp.zeros(capacity, jnp.int32),
        masks=jnp.zeros((capacity, steps + 1, *shape), bool),
        thresholds=jnp.zeros((capacity, steps + 1)),
        actions=jnp.zeros((capacity, steps), jnp.int32),
        rewards=jnp.zeros((capacity, steps)),
        lengths=jnp.zeros(capacity, jnp.int32),
    )
    return Buffer(*_packed(blank), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(buffer: Buffer, episodes: Episodes) -> Buffer:
    """Returns the buffer with more episodes; the oldest ones make room.

    Raises:
      ValueError: more episodes at once than it holds.
    """
    capacity, count = len(buffer.lengths), len(episodes.lengths)
    if count > capacity:
        raise ValueError(f"A replay buffer for {capacity} episodes got {count} at once; give it a larger capacity.")
    places = (buffer.place + jnp.arange(count, dtype=jnp.int32)) % capacity
    stored = Episodes(*(old.at[places].set(new) for old, new in zip(buffer, _packed(episodes))))
    return Buffer(*stored, (buffer.place + count) % capacity, jnp.minimum(buffer.filled + count, capacity))


def draw(key: Array, buffer: Buffer, count: int, *, first: int | Int[Array, ""] = 0) -> Transitions:
    """Returns actions drawn at random, with replacement, each one that is stored as likely as the others.

    Args:
      key: random key; the draw of place n is of `fold_in(key, n)`.
      buffer: with an episode or more in it.
      count: how many.
      first: their first place, so that devices that share a key each draw their part of what one would.
    """
    counts = jnp.where(jnp.arange(len(buffer.lengths)) < buffer.filled, buffer.lengths, 0)
    ends = jnp.cumsum(counts)

    def one(place: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(key, place), (), 0, jnp.maximum(ends[-1], 1))

    number = jax.vmap(one)(first + jnp.arange(count))
    episode = jnp.searchsorted(ends, number, side="right").astype(jnp.int32)
    return take(buffer, episode, number - (ends - counts)[episode])


def take(buffer: Buffer, episode: Int[Array, "N"], step: Int[Array, "N"]) -> Transitions:
    """Returns the actions at the given places and steps."""
    shape = buffer.probability.shape[1:]
    size = buffer.probability[0].size

    def masks(at: Array) -> Bool[Array, "N *S"]:
        bits = jnp.unpackbits(buffer.masks[episode, at], axis=-1, count=size)
        return bits.reshape(-1, *shape).astype(bool)

    return Transitions(
        image=_floats(buffer.image[episode], jnp.float16),
        probability=_floats(buffer.probability[episode], jnp.float16),
        plane=buffer.plane[episode],
        mask=masks(step),
        threshold=_floats(buffer.thresholds[episode, step], jnp.float32),
        time=step,
        action=buffer.actions[episode, step],
        reward=_floats(buffer.rewards[episode, step], jnp.float32),
        next_mask=masks(step + 1),
        next_threshold=_floats(buffer.thresholds[episode, step + 1], jnp.float32),
        done=step + 1 >= buffer.lengths[episode],
    )


def _packed(episodes: Episodes) -> Episodes:
    rows = episodes.masks.reshape(*episodes.masks.shape[:2], -1)
    return Episodes(
        image=_bits(episodes.image, jnp.float16),
        probability=_bits(episodes.probability, jnp.float16),
        plane=episodes.plane,
        masks=jnp.packbits(rows, axis=-1),
        thresholds=_bits(episodes.thresholds, jnp.float32),
        actions=episodes.actions,
        rewards=_bits(episodes.rewards, jnp.float32),
        lengths=episodes.lengths,
    )


def _bits(values: Float[Array, "..."], kind) -> UInt[Array, "..."]:
    return jax.lax.bitcast_convert_type(values.astype(kind), jnp.uint16 if kind == jnp.float16 else jnp.uint32)


def _floats(bits: UInt[Array, "..."], kind) -> Float[Array, "..."]:
    return jax.lax.bitcast_convert_type(bits, kind).astype(jnp.float32)
