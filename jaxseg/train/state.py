"""Everything that training carries from step to step, as arrays only, so that a checkpoint is the whole truth."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from jaxseg.typing import Task


class State(NamedTuple):
    """One logical copy of the training state.

    Attributes:
      step: number of updates done.
      horizon: number of updates planned; the schedule ends there.
      params: parameter group -> pytree.
      extra: what the task carries beside parameters (BatchNorm statistics, an image pool).
      opt_state: parameter group -> optimiser state.
      ema: running average of `params`, empty when it is off.
    """

    step: Int[Array, ""]
    horizon: Int[Array, ""]
    params: dict[str, PyTree]
    extra: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]


def create(
    key: PRNGKeyArray | UInt32[Array, "2"],
    task: Task,
    image: Float[Array | np.ndarray, "B *S C"],
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    horizon: int,
    ema: bool,
) -> State:
    """Initialises the task's parameters and one optimiser state a parameter group."""
    params, extra = jax.jit(task.init)(key, image)  # as one program: op by op it compiles for a minute
    return State(
        step=jnp.zeros((), jnp.int32),
        horizon=jnp.asarray(horizon, jnp.int32),
        params=params,
        extra=extra,
        opt_state={group: optimizers[group].init(tree) for group, tree in params.items()},
        ema=jax.tree.map(jnp.copy, params) if ema else {},
    )


def parameter_counts(state: State) -> dict[str, int]:
    """Returns how many parameters each group has."""
    return {group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in state.params.items()}


def stack(members: Sequence[State]) -> State:
    """Returns states of one shape as one, along a new first axis of every array."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def unstack(state: State) -> list[State]:
    """Returns what `stack` has joined."""
    count = len(state.step)
    return [jax.tree.map(lambda leaf: leaf[place], state) for place in range(count)]  # noqa: B023


def with_variables(state: State, params: dict[str, PyTree], extra: dict[str, PyTree]) -> State:
    """Returns the state with other parameters and statistics of the same shapes; their running average starts there."""
    params, extra = jax.tree.map(jnp.asarray, (params, extra))
    return state._replace(params=params, extra=extra, ema=jax.tree.map(jnp.copy, params) if state.ema else {})


def inference_variables(state: State) -> dict[str, PyTree]:
    """Returns what `task.predict` takes: averaged parameters where training kept them, else the last ones."""
    return {"params": state.ema or state.params, "extra": state.extra}
