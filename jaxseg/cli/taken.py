"""What a train step takes of this computer's memory: it is run in a process of its own, on random images.

The compiler of a CPU counts arrays. It does not count what convolutions ask for while they run, nor machine code and
threads; both grow along a straight line with the batch (`benchmarks/memory.py`), so that two small steps tell the rest.
"""

import ctypes
import gc
import json
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import plan as plans
from jaxseg.cli import build
from jaxseg.train import parallel

STEPS = 4  # which operations run at the same time differs from step to step, and with it the memory
# Every large block is a mapping of its own, which goes back to the system when it is freed.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Measured(NamedTuple):
    """Bytes of a step: the compiler's sum, its temporaries, and the most that was taken while steps ran."""

    predicted: int
    temporaries: int
    taken: int


class NotMeasured(Exception):
    """The steps could not be run, or their memory not be read; the text says why."""


def measure(config: ConfigDict, known: build.Facts) -> Measured:
    """Runs four train steps of a config on one CPU in a fresh process. Linux with glibc only.

    Returns:
      Its memory. `taken` is how far the highest resident size lies above that of the process with neither state nor
      batch; the interpreter and its packages are no part of it.

    Raises:
      NotMeasured: this is another system, or the process was ended, as for want of memory.
    """
    environment = {
        **os.environ,
        **ALLOCATOR,
        "JAX_PLATFORMS": "cpu",
        "JAX_TRACEBACK_FILTERING": "off",  # so that the last line of an error is the error
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", "from jaxseg.cli import taken; taken.child()"]
    done = subprocess.run(command, input=pickle.dumps((config.to_dict(), known)), env=environment, capture_output=True)
    if done.returncode < 0:
        raise NotMeasured(f"its process was ended by signal {-done.returncode}")
    if done.returncode:
        raise NotMeasured((done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def beyond(
    pair: Sequence[plans.Candidate], settings: Callable[[plans.Candidate], ConfigDict], known: build.Facts
) -> tuple[plans.Allowance, list[Measured]]:
    """Runs two candidates, of configs `settings(candidate)`; returns what to add to any, and what both took.

    Raises:
      NotMeasured: as for `measure`.
    """
    found = [measure(settings(candidate), known) for candidate in pair]
    samples = [(own.load, float(step.taken - step.predicted)) for own, step in zip(pair, found)]
    return plans.allowance(samples), found


def child() -> None:
    """The other process: a config and the data set's facts from standard input, figures to standard output."""
    settings, known = pickle.load(sys.stdin.buffer)
    print(json.dumps(_measured(ConfigDict(settings, type_safe=False), known)._asdict()))


def _measured(config: ConfigDict, known: build.Facts) -> Measured:
    task = build.task(config, known)
    shapes = build.state_shapes(config, known, task)
    batch_shapes = build.batch_shapes(config, known)
    step = parallel.compile_for(
        build.train_step(config, known, task),
        shapes,
        batch_shapes,
        jax.eval_shape(lambda: jax.random.key(0)),
        kind="pmap",
        devices=jax.devices("cpu")[:1],
    )
    found = plans.cost(step)
    draw = np.random.default_rng(0)
    state: Any = jax.tree.map(lambda shape: _filled(draw, shape), shapes)
    batch = {name: _filled(draw, shape)[None] for name, shape in batch_shapes.items()}
    batch["index"] = jnp.arange(config.data.batch_size, dtype=jnp.int32)[None]
    key = jax.random.key(0)
    jax.block_until_ready((state, batch))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS") - found.arguments  # state and batch are all that is there of the step yet
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest resident size begins anew
    for _ in range(STEPS):
        state, metrics = step(state, batch, key)
        jax.block_until_ready((state, metrics))
    return Measured(found.peak, found.temporaries, _status("VmHWM") - before)


def _filled(draw: np.random.Generator, shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Small random numbers; whole ones are 0."""
    return jnp.array((draw.random(shape.shape, np.float32) * 0.02).astype(shape.dtype), copy=True)


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
