"""Classical operators on a mask as an environment: one yes-or-no plane of one image, a decision at a time.

    state = operators.reset(probability, true, seen)
    state, reward, done = operators.step(state, action, key, rules=rules)

Fixed shapes, no draw of its own: safe in `jit`, `vmap` (a batch) and `lax.scan` (an episode).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg import ops

OPERATORS = ("threshold_down", "threshold_up", "dilate", "erode", "open", "close", "fill", "largest", "stop")
STOP = OPERATORS.index("stop")
FIRST_THRESHOLD = 0.5
LIMITS = (0.05, 0.95)  # of the threshold
CHANNELS = 4  # that `observe` gives


class Rules(NamedTuple):
    """What actions do.

    Attributes:
      steps: of the longest episode.
      threshold: by which the threshold on the probability moves; it stays from 0.05 to 0.95.
      iterations: of the cross element in one "dilate" or "erode", in pixels.
      radius: of "open" and "close", in pixels.
      cost: of every action but "stop", in Dice.
    """

    steps: int = 6
    threshold: float = 0.1
    iterations: int = 1
    radius: int = 2
    cost: float = 0.001


class State(NamedTuple):
    """One plane of one image. `probability` and `true` never change.

    Attributes:
      probability: of yes, which the thresholds are taken of.
      mask: as it is now.
      true: the annotator's mask, which rewards are counted by and which no policy may see.
      seen: where the annotation counts.
      threshold: that the next one is counted from.
      time: actions taken.
      done: nothing changes any more.
    """

    probability: Float[Array, "*S"]
    mask: Bool[Array, "*S"]
    true: Bool[Array, "*S"]
    seen: Bool[Array, "*S"]
    threshold: Float[Array, ""]
    time: Int[Array, ""]
    done: Bool[Array, ""]


def reset(probability: Float[Array, "*S"], true: Bool[Array, "*S"], seen: Bool[Array, "*S"]) -> State:
    """Returns the first state: the mask is where the probability is above 1/2."""
    return State(
        probability=probability,
        mask=probability > FIRST_THRESHOLD,
        true=true,
        seen=seen,
        threshold=jnp.full((), FIRST_THRESHOLD, jnp.float32),
        time=jnp.zeros((), jnp.int32),
        done=jnp.zeros((), bool),
    )


def outcomes(state: State, *, rules: Rules) -> tuple[Bool[Array, "A *S"], Float[Array, "A"]]:
    """Returns the mask and the threshold that each action of `OPERATORS` would leave.

    The two thresholds start the mask anew from the probability; what other actions did to it before is lost.
    """
    down, up = (
        jnp.clip(state.threshold + change, *LIMITS).astype(jnp.float32)
        for change in (-rules.threshold, rules.threshold)
    )
    masks = {
        "threshold_down": state.probability > down,
        "threshold_up": state.probability > up,
        "dilate": ops.dilate(state.mask, iterations=rules.iterations),
        "erode": ops.erode(state.mask, iterations=rules.iterations),
        "open": ops.open(state.mask, iterations=rules.radius),
        "close": ops.close(state.mask, iterations=rules.radius),
        "fill": ops.fill_holes(state.mask),
        "largest": ops.keep_largest(state.mask),
        "stop": state.mask,
    }
    moved = {"threshold_down": down, "threshold_up": up}
    thresholds = [moved.get(name, state.threshold) for name in OPERATORS]
    return jnp.stack([masks[name] for name in OPERATORS]), jnp.stack(thresholds)


def step(
    state: State, action: Int[Array, ""], key: Array | None = None, *, rules: Rules
) -> tuple[State, Float[Array, ""], Bool[Array, ""]]:
    """Returns (state, reward, done): the reward is the gain in Dice less the action's cost, so that rewards telescope.

    An episode is done after "stop" or after `rules.steps` actions; from then on nothing changes and rewards are 0.

    Args:
      state: of `reset` or `step`.
      action: a place in `OPERATORS`.
      key: as environments have it; this one draws nothing.
      rules: of the actions.
    """
    del key
    masks, thresholds = outcomes(state, rules=rules)  # all at once: under vmap a branch would compute them all, too
    return decide(state, action, masks, thresholds, rules=rules)


def decide(
    state: State, action: Int[Array, ""], masks: Bool[Array, "A *S"], thresholds: Float[Array, "A"], *, rules: Rules
) -> tuple[State, Float[Array, ""], Bool[Array, ""]]:
    """Returns what `step` does, of outcomes that are known already."""
    stop = action == STOP
    new = state._replace(
        mask=masks[action],
        threshold=thresholds[action],
        time=state.time + 1,
        done=stop | (state.time + 1 >= rules.steps),
    )
    gain = dice(new.mask, state.true, state.seen) - dice(state.mask, state.true, state.seen)
    reward = jnp.where(state.done, 0.0, gain - jnp.where(stop, 0.0, rules.cost))
    new = jax.tree.map(lambda after, before: jnp.where(state.done, before, after), new, state)
    return new, reward, new.done


def dice(mask: Bool[Array, "*S"], true: Bool[Array, "*S"], seen: Bool[Array, "*S"]) -> Float[Array, ""]:
    """Returns the Dice coefficient of what is seen; 1 where neither mask has a pixel there."""
    mask, true = mask & seen, true & seen
    both = mask.sum(dtype=jnp.float32) + true.sum(dtype=jnp.float32)
    return jnp.where(both > 0, 2.0 * (mask & true).sum(dtype=jnp.float32) / jnp.maximum(both, 1.0), 1.0)


def observe(state: State, *, rules: Rules) -> Float[Array, "*S 4"]:
    """Returns what a policy sees beside the image: probability and mask from -1 to 1, threshold and time as planes.

    In an episode that goes on for longer than `rules.steps`, the time stays that of the last action.
    """
    time = jnp.minimum(state.time, rules.steps - 1) / rules.steps
    planes = (2.0 * state.probability - 1.0, 2.0 * state.mask - 1.0, state.threshold, time)
    shape = state.mask.shape
    return jnp.stack([jnp.broadcast_to(plane, shape).astype(jnp.float32) for plane in planes], axis=-1)
