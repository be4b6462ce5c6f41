"""--mode compile: what a config's train and predict steps need on machines that need not be here."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from jaxseg import paths
from jaxseg import plan as plans
from jaxseg.cli import build, image_cases, images, workdir
from jaxseg.data import fingerprint, store
from jaxseg.plan import targets
from jaxseg.tasks.images import style_length
from jaxseg.train import parallel
from jaxseg.train import state as states
from jaxseg.typing import Task, UserError

FOLDER = "compile"
EXHAUSTED = "RESOURCE_EXHAUSTED"


def compile(arguments: workdir.Arguments) -> None:
    """Compiles for every --target, prints what each step needs and writes WORKDIR/compile/TARGET.json.

    Raises:
      UserError: a target that is not known, or settings that leave a shape open or do not divide over its devices.
    """
    if not arguments.targets:
        raise UserError("--mode compile needs --target, such as --target v5e:2x2 or --target cpu.")
    jax.config.update("jax_platforms", "cpu")  # shapes only: no accelerator is asked for
    config = arguments.config
    known = build.facts(build.dataset(config))
    config.data.patch_size = _patch(config, arguments.workdir)
    for target in arguments.targets:
        devices = targets.devices(target)
        own = ConfigDict(config.to_dict(), type_safe=False)
        if own.train.dtype == "auto":
            own.train.dtype = "float32" if devices[0].platform == "cpu" else "bfloat16"
        parallel.check_batch(
            own.data.batch_size, patch_size=own.data.patch_size, spatial=own.parallel.spatial, devices=len(devices)
        )
        task = build.task(own, known)
        state = build.state_shapes(own, known, task)
        steps: dict[str, Callable[..., Any]] = {
            "train": functools.partial(_train, batch=batch_shapes(own, known, arguments.workdir)),
            "predict": _predict,
        }
        found = {}
        for name, run in steps.items():
            found[name] = _measured(functools.partial(run, own, known, task, state, devices))
            print(describe(name, target, len(devices), found[name]), flush=True)
        path = arguments.workdir / FOLDER / f"{target.replace(':', '_')}.json"
        summary = {"target": target, "devices": len(devices), "memory": targets.memory(target, len(devices)), **found}
        fingerprint.write_json(path, summary)


def describe(name: str, target: str, count: int, found: dict[str, Any]) -> str:
    """One line for the terminal; sizes in GiB and MiB a device."""
    head = f"{name:<8} {target:<10} {count} device{'s' * (count > 1)}: "
    if "exhausted" in found:
        return head + f"does not fit: {found['exhausted']}"
    memory = targets.memory(target, count)
    limit = "" if memory is None else f" of {memory / 2**30:g} GiB, {'fits' if found['peak'] <= memory else 'too much'}"
    unread = {"messages that could not be read": None}
    messages = ", ".join(
        kind if value is None else f"{value['messages']} {kind} ({value['bytes'] / 2**20:.1f} MiB)"
        for kind, value in (unread if found["collectives"] is None else found["collectives"]).items()
    )
    return (
        head + f"{found['peak'] / 2**30:.2f} GiB{limit}; {found['flops'] / 1e9:.3g} GFLOP, "
        f"{found['bytes_accessed'] / 2**30:.3g} GiB moved; {messages or 'no messages'}"
    )


def train_peak(config: ConfigDict, known: build.Facts, devices: Sequence[Any], folder: paths.Path) -> int | None:
    """Returns the bytes a device that the real train step of a config takes; None where the compiler cannot fit it in.

    Raises:
      UserError: settings that leave a shape open or do not divide over the devices.
    """
    task = build.task(config, known)
    state = build.state_shapes(config, known, task)
    run = functools.partial(_train, config, known, task, state, devices, batch=batch_shapes(config, known, folder))
    return _measured(run).get("peak")


def _measured(run) -> dict[str, Any]:
    try:
        return dict(plans.as_json(plans.cost(run())))
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if "memory" in line.lower()]
        return {"exhausted": (lines or [str(error)])[0][:300]}


def _patch(config: ConfigDict, folder: paths.Path) -> tuple[int, ...]:
    """The patch of the config; where it is open, that of the prepared data."""
    wanted = tuple(config.data.patch_size)
    if all(wanted):
        return wanted
    if not (folder / workdir.RECORD).exists():
        raise UserError(f"data.patch_size {wanted} is open; give it, or run --mode prepare with this --workdir first.")
    return tuple(workdir.record(folder)["patch_size"])


def batch_shapes(config: ConfigDict, known: build.Facts, folder: paths.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch as the loader gives it."""
    if config.task == "instance":  # padded to what the data hold
        target = build.store_folder(config, folder)
        if not target.exists():
            raise UserError(f"The sizes of task='instance' come from prepared data; run --mode prepare into {target}.")
        first = next(build.batches(config, store.open(target), start_step=0))
        return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in first.items()}
    return build.batch_shapes(config, known)


def _train(config: ConfigDict, known: build.Facts, task: Task, state: states.State, devices, *, batch: dict) -> Any:
    return parallel.compile_for(
        build.train_step(config, known, task, devices=devices),
        state,
        batch,
        jax.eval_shape(lambda: jax.random.key(0)),
        kind=config.parallel.kind,
        devices=devices,
        spatial=config.parallel.spatial,
    )


def _predict(config: ConfigDict, known: build.Facts, task: Task, state: states.State, devices) -> Any:
    """One batch of windows on one device, which is how prediction runs."""
    here = SingleDeviceSharding(devices[0])
    variables = states.inference_variables(state)
    asked = (variables, _asked(config, known))
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), asked)
    return jax.jit(task.predict).trace(*placed).lower(lowering_platforms=(devices[0].platform,)).compile()


def _asked(config: ConfigDict, known: build.Facts) -> Any:
    """Shapes of what the network is asked with: of an image, and where images are made, of what they are made of."""
    batch, window = config.predict.batch_size, tuple(image_cases.window_options(config, known)["window"])
    if config.task == "synthesis":  # of whole label maps; a patch stands for one
        style = style_length(build.model(config, known))
        shapes = [(batch, *window, len(known.classes)), (batch, style)]
        return tuple(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    channels = build.input_channels(config, known)
    if images.makes_images(config):
        channels = len(images.source(config, known.channels))
    return jax.ShapeDtypeStruct((batch, *window, channels), np.float32)
