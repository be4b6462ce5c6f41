"""A world in which every pixel is an agent that changes its probability step by step (Liao et al. 2020; pixelRL).

One image, P planes (see `planes`). Nine actions: leave the probability, move it by 0.1, 0.2 or 0.4 up or down, or take
the mean of its surroundings. The reward of a pixel is what its cross-entropy (or the plane's Dice) gains, so that the
rewards of an episode sum to the whole gain. Pure functions of one image; map them over a batch with `jax.vmap`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxseg.rl import clicks

MOVES = (0.0, 0.1, 0.2, 0.4, -0.1, -0.2, -0.4)  # added to the probability
BLURS = ((1.5, 2), (3.0, 4))  # standard deviation and reach of a Gaussian, pixels: 5 and 9 wide
ACTIONS = (
    "keep", "+0.1", "+0.2", "+0.4", "-0.1", "-0.2", "-0.4", "smooth 1.5", "smooth 3",
)  # fmt: skip
LEAST = 0.01  # probabilities stay within [0.01, 0.99], where a step back is still seen
REWARDS = ("cross_entropy", "dice")
SMOOTH = 1.0  # pixels, in the Dice of the reward


class State(NamedTuple):
    """Of one image.

    Attributes:
      planes: probabilities of yes.
      hints: around the clicks so far, from 1 at a click to 0; for each plane what is in it, then what is not.
      true: planes of 0 and 1.
      seen: 1 where a pixel counts.
      time: steps done.
    """

    planes: Float[Array, "*S P"]
    hints: Float[Array, "*S H"]
    true: Float[Array, "*S P"]
    seen: Float[Array, "*S 1"]
    time: Int[Array, ""]


class World(NamedTuple):
    """The rules of an episode.

    Attributes:
      steps: of an episode.
      reward: "cross_entropy": each pixel's own gain; "dice": the plane's gain, which all its pixels share.
      clicks: how many an annotator makes in an episode, evenly spread over its steps; 0: none, and no hints.
      click_scale: standard deviation of a hint, pixels.
    """

    steps: int = 5
    reward: str = "cross_entropy"
    clicks: int = 0
    click_scale: float = 5.0


def hint_channels(world: World, planes: int) -> int:
    """How many channels of hints the agents see."""
    return 2 * planes if world.clicks else 0


def reset(
    planes: Float[Array, "*S P"], true: Float[Array, "*S P"], seen: Float[Array, "*S 1"], *, world: World
) -> State:
    """Starts an episode at these probabilities; where clicks are made, the first one is."""
    hints = jnp.zeros((*planes.shape[:-1], hint_channels(world, planes.shape[-1])))
    state = State(jnp.clip(planes, LEAST, 1.0 - LEAST), hints, true, seen, jnp.zeros((), jnp.int32))
    return click(state, world=world)


def step(
    state: State, action: Int[Array, "*S P"], key: PRNGKeyArray | None = None, *, world: World
) -> tuple[State, Float[Array, "*S P"], Array]:
    """Returns `(state, reward, done)`; nothing here is left to chance, so that the key is not asked.

    Args:
      state: before.
      action: of each pixel and plane, a place in `ACTIONS`.
      key: of the environments' common signature.
      world: the rules.
    """
    del key
    return arrive(state, act(state.planes, action), world=world)


def arrive(state: State, planes: Float[Array, "*S P"], *, world: World) -> tuple[State, Float[Array, "*S P"], Array]:
    """As `step`, but to any probabilities, whatever made them."""
    after = state._replace(planes=planes, time=state.time + 1)
    reward = gain(state, after, world=world)
    done = after.time >= world.steps
    return click(after, world=world), reward, done


def act(planes: Float[Array, "*S P"], action: Int[Array, "*S P"]) -> Float[Array, "*S P"]:
    """Returns the probabilities after each pixel's action."""
    moved = planes + jnp.asarray(MOVES)[jnp.minimum(action, len(MOVES) - 1)]
    for place, (sigma, reach) in enumerate(BLURS, start=len(MOVES)):
        moved = jnp.where(action == place, blur(planes, sigma=sigma, reach=reach), moved)
    return jnp.clip(moved, LEAST, 1.0 - LEAST)


def blur(planes: Float[Array, "*S P"], *, sigma: float, reach: int) -> Float[Array, "*S P"]:
    """Gaussian mean over `2 * reach + 1` pixels along each axis; the border continues the edge.

    Equal to `scipy.ndimage.gaussian_filter(mode="nearest", radius=reach)`. As matrix products, which compile in a tenth
    of the time that shifted sums take.
    """
    for axis in range(planes.ndim - 1):
        matrix = jnp.asarray(_blur_matrix(planes.shape[axis], sigma, reach), planes.dtype)
        planes = jnp.moveaxis(jnp.tensordot(matrix, planes, axes=(1, axis)), 0, axis)
    return planes


@functools.cache
def _blur_matrix(size: int, sigma: float, reach: int) -> np.ndarray:
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size))
    for offset, weight in zip(offsets, weights / weights.sum()):
        np.add.at(matrix, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), weight)
    return matrix


def gain(before: State, after: State, *, world: World) -> Float[Array, "*S P"]:
    """The reward of a step, pixel by pixel; 0 where a pixel does not count."""
    if world.reward == "dice":
        gained = dice(after.planes, after.true, after.seen) - dice(before.planes, before.true, before.seen)
        return jnp.broadcast_to(gained, after.planes.shape) * after.seen
    return (surprise(before.planes, before.true) - surprise(after.planes, after.true)) * after.seen


def surprise(planes: Float[Array, "*S P"], true: Float[Array, "*S P"]) -> Float[Array, "*S P"]:
    """Binary cross-entropy of every pixel and plane."""
    return -jnp.log(jnp.where(true > 0.5, planes, 1.0 - planes))


def dice(planes: Float[Array, "*S P"], true: Float[Array, "*S P"], seen: Float[Array, "*S 1"]) -> Float[Array, "P"]:
    """Dice of each plane's mask (above 1/2), with one pixel more on either side so that empty ones have a value."""
    mask = (planes > 0.5) * seen
    axes = tuple(range(planes.ndim - 1))
    return (2.0 * (mask * true).sum(axes) + SMOOTH) / (mask.sum(axes) + (true * seen).sum(axes) + SMOOTH)


def click(state: State, *, world: World) -> State:
    """Lets the annotator click where the mask is most wrong, at the steps where it is time to."""
    if not world.clicks:
        return state

    def due() -> Float[Array, "*S H"]:
        found = clicks.worst(state.planes, state.true, state.seen, state.hints)
        return clicks.add(state.hints, found, scale=world.click_scale)

    return state._replace(hints=jax.lax.cond(state.time % every(world) == 0, due, lambda: state.hints))


def every(world: World) -> int:
    """Steps from one click to the next."""
    return max(1, world.steps // max(1, world.clicks))


def observe(image: Float[Array, "*S C"], state: State) -> Float[Array, "*S D"]:
    """What the agents see: the image, the probabilities from -1 to 1, and the hints."""
    return jnp.concatenate([image, 2.0 * state.planes - 1.0, state.hints], axis=-1)
