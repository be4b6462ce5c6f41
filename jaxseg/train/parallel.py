"""The only room that knows devices: pmap (default) or jit over a mesh, both around the same pure step."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxseg.typing import StepFn, UserError


def wrap(step: StepFn, *, kind: str, spatial: int = 1) -> tuple[Callable, Callable]:
    """Returns (compiled step, put): `put` sends one host's part of a global batch to its devices.

    The state is donated and stays one logical copy in either kind, so checkpoints see ordinary arrays.

    Args:
      step: `step(state, batch, key, *, axis_name=None)`.
      kind: "pmap" or "mesh".
      spatial: number of devices that share one volume along its first spatial axis (mesh only).

    Raises:
      UserError: the number of devices is not a multiple of `spatial`.
    """
    if kind == "pmap":
        return _pmap(step)
    return _mesh(step, spatial)


def _pmap(step: StepFn) -> tuple[Callable, Callable]:
    compiled = jax.pmap(
        functools.partial(step, axis_name="batch"),
        axis_name="batch",
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=(0,),
    )
    devices = jax.local_device_count()

    def put(batch: dict) -> dict:
        # (B, ...) -> (devices, B / devices, ...)
        return {name: value.reshape(devices, -1, *value.shape[1:]) for name, value in batch.items()}

    return compiled, put


def _mesh(step: StepFn, spatial: int) -> tuple[Callable, Callable]:
    count = jax.device_count()
    if count % spatial:
        raise UserError(f"parallel.spatial = {spatial} must divide the number of devices, {count}.")
    kinds = (jax.sharding.AxisType.Auto,) * 2  # the compiler places what happens inside the step
    mesh = jax.make_mesh((count // spatial, spatial), ("data", "space"), devices=jax.devices(), axis_types=kinds)
    everywhere = NamedSharding(mesh, PartitionSpec())
    # Metrics and state are whole on every device; the compiler inserts reductions and halo exchanges.
    compiled = jax.jit(step, donate_argnums=(0,), out_shardings=everywhere)

    def put(batch: dict) -> dict:
        def send(value: np.ndarray):
            axes = ("data", "space") if value.ndim > 1 and spatial > 1 else ("data",)
            return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(*axes)), value)

        return {name: send(value) for name, value in batch.items()}

    def run(state, batch, key):
        return compiled(jax.device_put(state, everywhere), batch, jax.device_put(key, everywhere))

    return run, put


def check_batch(batch_size: int, *, spatial: int = 1) -> None:
    """Raises a UserError when the global batch does not divide over the devices."""
    ways = max(1, jax.device_count() // spatial)
    if batch_size % ways:
        near = max(ways, batch_size // ways * ways)
        raise UserError(f"data.batch_size = {batch_size} must be a multiple of the {ways} devices, such as {near}.")


def local(tree: PyTree) -> PyTree:
    """Returns the copy that this host's first device holds, for work on one device (evaluation)."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
