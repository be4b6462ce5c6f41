"""The only room that knows devices: pmap (default) or jit over a mesh, both around the same pure step.

What several processes do as one run (start, share, end) stands in `train/processes.py`.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jaxseg.typing import AugmentFn, StepFn, UserError

# XLA's CPU compiler would drop the barriers that keep what is computed anew (`remat` of the models) apart from the
# first computation, merge the two, and keep everything after all. Other compilers leave them standing.
_KEPT_BARRIERS = ("xla_disable_hlo_passes", "cse_barrier_expander")
_ACCELERATORS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")


def keep_barriers() -> None:
    """Lets networks with `remat` save memory on a CPU too; to be called before a device is used, else without effect.

    Where an accelerator may be, nothing is changed: the flag is for all compilers of the process.
    """
    installed = any(importlib.util.find_spec(name) for name in _ACCELERATORS)
    flags, flag = os.environ.get("XLA_FLAGS", ""), f"--{'='.join(_KEPT_BARRIERS)}"
    if flag not in flags and (os.environ.get("JAX_PLATFORMS") == "cpu" or not installed):
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


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
    compiled = _mapped(step)
    devices = jax.local_devices()
    # Where the step leaves the state. A first state that lies otherwise would be compiled for alone, and thrown away.
    everywhere = NamedSharding(jax.sharding.Mesh(np.array(devices), ("batch",)), PartitionSpec())
    several = jax.process_count() > 1

    def run(state, batch, key):
        return compiled(local(state) if several else jax.device_put(state, everywhere), batch, key)

    def put(batch: dict) -> dict:
        # (B, ...) -> (devices, B / devices, ...)
        return {name: value.reshape(len(devices), -1, *value.shape[1:]) for name, value in batch.items()}

    return run, put


def _mapped(step: StepFn, *, devices: Sequence[Any] | None = None) -> Any:
    return jax.pmap(
        functools.partial(step, axis_name="batch"),
        axis_name="batch",
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=(0,),
        devices=devices,
    )


def wrap_members(step: StepFn, *, count: int, how: str = "auto") -> tuple[Callable, Callable]:
    """Returns (compiled step, put) for `count` states that train at once as one program, each for itself.

    States, batches and metrics are stacked along a first axis. The members are spread over as many devices as divide
    their number, without any message between them.

    Args:
      step: of one state; the keys of the members are stacked too.
      count: of members.
      how: what a device does with several: "vmap" (one operation for all), "unroll" (one after the other), or "auto":
        "unroll" on CPU, where convolutions with a kernel a member have a slow gradient, else "vmap".
    """
    compiled, along = _members(step, count=count, how=how)

    def put(batch: dict) -> dict:
        return {name: jax.device_put(value, along) for name, value in batch.items()}

    def run(state, batch, key):
        return compiled(jax.device_put(state, along), batch, key)

    return run, put


def compile_members(step: StepFn, state: PyTree, batch: dict[str, Any], key: Any, *, count: int, how: str) -> Any:
    """Compiles what `wrap_members` runs, from the shapes of one member; see `compile_for` for what comes."""
    compiled, along = _members(step, count=count, how=how)

    def stacked(value: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *value.shape), value.dtype, sharding=along)

    return compiled.lower(*jax.tree.map(stacked, (state, batch, key))).compile()


def memory_limit() -> int | None:
    """Returns the bytes that a program may take on one of this run's devices, or None where that is not known.

    Of a CPU it is seven tenths of the host's memory, shared by the devices.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
        return int(0.7 * whole / jax.local_device_count()) or None
    return (device.memory_stats() or {}).get("bytes_limit")


def _members(step: StepFn, *, count: int, how: str) -> tuple[Any, NamedSharding]:
    """The jitted step of all members, and how their arrays lie."""
    devices = jax.devices()
    ways = max(n for n in range(1, len(devices) + 1) if count % n == 0)
    mesh = jax.make_mesh((ways,), ("members",), devices=devices[:ways], axis_types=(jax.sharding.AxisType.Auto,))
    along = PartitionSpec("members")

    def unrolled(state, batch, key):
        results = [
            step(*jax.tree.map(lambda leaf: leaf[place], (state, batch, key)))  # noqa: B023
            for place in range(count // ways)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    mapped = jax.vmap(step, in_axes=(0, 0, 0))

    def chosen(state, batch, key):
        return jax.lax.platform_dependent(state, batch, key, cpu=unrolled, default=mapped)

    own = {"vmap": mapped, "unroll": unrolled, "auto": chosen}[how]
    sharded = jax.shard_map(own, mesh=mesh, in_specs=(along, along, along), out_specs=along, check_vma=False)
    return jax.jit(sharded, donate_argnums=(0,)), NamedSharding(mesh, along)


def _make_mesh(devices: Sequence[Any], spatial: int) -> jax.sharding.Mesh:
    kinds = (jax.sharding.AxisType.Auto,) * 2  # the compiler places what happens inside the step
    shape = (len(devices) // spatial, spatial)
    return jax.make_mesh(shape, ("data", "space"), devices=devices, axis_types=kinds)


def _batch_sharding(mesh: jax.sharding.Mesh, shape: Sequence[int], spatial: int) -> NamedSharding:
    """Over the samples, and over the first spatial axis where it can be divided."""
    divisible = spatial > 1 and len(shape) > 1 and shape[1] % spatial == 0
    return NamedSharding(mesh, PartitionSpec(*(("data", "space") if divisible else ("data",))))


def pin(
    augment: AugmentFn | None, *, kind: str, spatial: int = 1, devices: Sequence[Any] | None = None
) -> AugmentFn | None:
    """Returns the augmentation with its result laid out over the mesh as the network shall see it.

    Without this the compiler may gather what an augmentation has mixed and compute the rest on every device. Under pmap
    there is nothing to lay out.

    Args:
      augment: of the batch; None: none.
      kind, spatial: as for `wrap`.
      devices: as for `compile_for`; None: all of this run.
    """
    if kind == "pmap":
        return augment
    mesh = _make_mesh(devices or jax.devices(), spatial)

    def pinned(key: Array, batch: dict) -> dict:
        batch = batch if augment is None else augment(key, batch)
        return {
            name: jax.lax.with_sharding_constraint(value, _batch_sharding(mesh, value.shape, spatial))
            for name, value in batch.items()
        }

    return pinned


def _mesh(step: StepFn, spatial: int) -> tuple[Callable, Callable]:
    count = jax.device_count()
    if count % spatial:
        raise UserError(f"parallel.spatial = {spatial} must divide the number of devices, {count}.")
    mesh = _make_mesh(jax.devices(), spatial)
    everywhere = NamedSharding(mesh, PartitionSpec())
    # Metrics and state are whole on every device; the compiler inserts reductions and halo exchanges.
    compiled = jax.jit(step, donate_argnums=(0,), out_shardings=everywhere)

    def put(batch: dict) -> dict:
        def send(value: np.ndarray):
            return jax.make_array_from_process_local_data(_batch_sharding(mesh, value.shape, spatial), value)

        return {name: send(value) for name, value in batch.items()}

    several = jax.process_count() > 1

    def spread(tree):
        return whole(tree) if several else jax.device_put(tree, everywhere)

    def run(state, batch, key):
        return compiled(spread(state), batch, spread(key))

    return run, put


def compile_for(
    step: StepFn, state: PyTree, batch: dict[str, Any], key: Any, *, kind: str, devices: Sequence[Any], spatial: int = 1
) -> Any:
    """Compiles the step for devices that need not be here, from shapes alone, laid out as `wrap` lays it out.

    Args:
      step: as for `wrap`.
      state, batch, key: `jax.ShapeDtypeStruct` leaves; the batch is the global one.
      kind, spatial: as for `wrap`.
      devices: of this machine or of a topology.

    Returns:
      The compiled program: `memory_analysis()`, `cost_analysis()`, `as_text()`.

    Raises:
      UserError: batch or devices cannot be divided.
    """
    if len(devices) % spatial:
        raise UserError(f"parallel.spatial = {spatial} must divide the number of devices, {len(devices)}.")
    platform = (devices[0].platform,)
    options = dict([_KEPT_BARRIERS]) if platform == ("cpu",) else None
    if kind == "pmap":
        ways = len(devices)
        divided = {
            name: jax.ShapeDtypeStruct((ways, value.shape[0] // ways, *value.shape[1:]), value.dtype)
            for name, value in batch.items()
        }
        return _mapped(step, devices=devices).lower(state, divided, key).compile(options)
    mesh = _make_mesh(devices, spatial)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def placed(value, sharding):
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)

    state, key = jax.tree.map(lambda value: placed(value, everywhere), (state, key))
    batch = {name: placed(value, _batch_sharding(mesh, value.shape, spatial)) for name, value in batch.items()}
    compiled = jax.jit(step, donate_argnums=(0,), out_shardings=everywhere)
    return compiled.trace(state, batch, key).lower(lowering_platforms=platform).compile(options)


def check_batch(
    batch_size: int, *, patch_size: Sequence[int] = (), spatial: int = 1, devices: int | None = None
) -> None:
    """Raises a UserError when batch or patch do not divide over the devices (None: those of this run)."""
    if patch_size and patch_size[0] % spatial:
        raise UserError(
            f"parallel.spatial = {spatial} should divide the first size of data.patch_size = {tuple(patch_size)}."
        )
    ways = max(1, (devices or jax.device_count()) // spatial)
    if batch_size % ways:
        near = max(ways, batch_size // ways * ways)
        raise UserError(f"data.batch_size = {batch_size} must be a multiple of the {ways} devices, such as {near}.")


def local(tree: PyTree) -> PyTree:
    """Returns the copy that this host's first device holds, for work on one device (evaluation)."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def whole(tree: PyTree) -> PyTree:
    """Returns values that are equal on all processes as one logical copy on all devices, as checkpoints want them.

    With one process they are that already.
    """
    if jax.process_count() == 1:
        return tree
    everywhere = NamedSharding(_make_mesh(jax.devices(), 1), PartitionSpec())

    def spread(value):
        if not isinstance(value, jax.Array) or value.sharding == everywhere:
            return value
        copies = [jax.device_put(value.addressable_data(0), device) for device in jax.local_devices()]
        return jax.make_array_from_single_device_arrays(value.shape, everywhere, copies)

    return jax.tree.map(spread, tree)
