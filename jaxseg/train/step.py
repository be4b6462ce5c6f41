"""The one step factory: it walks the task's parameter groups and gives the same numbers under jit, pmap and a mesh."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxseg.train.optim import Schedule
from jaxseg.train.state import State
from jaxseg.typing import AugmentFn, StepFn, Task


def make_step(
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    schedule: Schedule,
    *,
    augment: AugmentFn | None = None,
    accumulate: int = 1,
    ema: float = 0.0,
) -> StepFn:
    """Returns `step(state, batch, key, *, axis_name=None) -> (state, metrics)`, pure and free of host work.

    A loss or gradient that is not finite leaves parameters, optimiser and statistics as they were and is told by
    `metrics["finite"]`; only the step counter moves on.

    Args:
      task: losses by parameter group.
      optimizers: one a parameter group, without the learning rate.
      schedule: `(step, horizon) -> learning rate`.
      augment: runs on the device before the loss; its key depends on the step and each sample's place in the batch.
      accumulate: number of equal micro-batches whose gradients are averaged, one after the other.
      ema: decay of the weights' running average; its first updates decay less, so that the start is forgotten.
    """

    def step(state: State, batch: dict, key: Array, *, axis_name: str | None = None) -> tuple[State, dict]:
        augment_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        if augment is not None:
            batch = augment(augment_key, batch)
        rate = schedule(state.step, state.horizon)
        params, opt_state, extra = dict(state.params), dict(state.opt_state), state.extra
        metrics: dict[str, Array] = {}
        finite = jnp.array(True)
        for group in task.losses:
            gradients, extra, values = _gradients(task, group, params, extra, batch, loss_key, accumulate, axis_name)
            norm = optax.tree.norm(gradients)
            updates, opt_state[group] = optimizers[group].update(gradients, opt_state[group], params[group])
            params[group] = optax.apply_updates(params[group], jax.tree.map(lambda u: -rate * u, updates))
            metrics.update(values, **{f"gradient_norm/{group}": norm})
            finite = finite & jnp.isfinite(norm) & jnp.isfinite(values["loss"])
        new = state._replace(params=params, opt_state=opt_state, extra=extra)
        if ema:
            new = new._replace(ema=_average(state, params, ema))
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return new._replace(step=state.step + 1), {**metrics, "lr": rate, "finite": finite}

    return step


def _average(state: State, params: PyTree, decay: float) -> PyTree:
    step = state.step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda mean, value: kept * mean + (1.0 - kept) * value, state.ema, params)


def _gradients(task, group, params, extra, batch, key, accumulate, axis_name):
    """Returns (gradients, extra, metrics) of one group, averaged over micro-batches and devices."""

    def loss(own, extra, batch):
        return task.losses[group]({**params, group: own}, extra, batch, key, axis_name=axis_name)

    derive, before = jax.value_and_grad(loss, has_aux=True), extra

    def one(extra, batch):
        (value, (metrics, extra)), gradients = derive(params[group], extra, batch)
        return extra, (gradients, {"loss": value, **metrics})

    if accumulate == 1:
        extra, (gradients, metrics) = one(extra, batch)
    else:
        # A scan keeps the memory of one micro-batch; every k-th sample goes together, whatever the number of devices.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
        extra, stacked = jax.lax.scan(one, extra, parts)
        gradients, metrics = jax.tree.map(lambda x: x.mean(0), stacked)
    if axis_name is not None:
        gradients, metrics = jax.lax.pmean((gradients, metrics), axis_name)
        # What the loss hands through (frozen networks) needs no message, and three thirds would not be the whole;
        # counters are alike everywhere, and their mean would be no integer any more.
        extra = jax.tree.map(
            lambda new, old: new if new is old or not _is_real(new) else jax.lax.pmean(new, axis_name), extra, before
        )
    return gradients, extra, metrics


def _is_real(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
