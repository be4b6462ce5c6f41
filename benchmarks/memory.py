"""What the compiler says a train step takes on the CPU, against what a process really takes while it runs it.

    python -m benchmarks.memory          # 2D and 3D U-Nets, with and without recomputation, each in a fresh process

"Predicted" is `plan.cost(...).peak` of the compiled step: arguments + outputs - aliased + temporaries + code, which
--mode plan and --mode compile print. "Taken" is the highest resident size of the process while two steps run (VmHWM of
/proc/self/status, set back through /proc/self/clear_refs) less its resident size before them, of which the arguments,
which are there by then, are no part. The second step takes the first one's state, which is donated, as in training.

What is more is memory that XLA's convolutions on a CPU ask for while they run: Eigen unfolds the images block by block
(`TensorContractionBlockMemAllocator::allocateSlices` under `xla::cpu::ConvolutionThunk` in a debugger's stack), which
the compiler does not count. Linux with glibc only.
"""

import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys

_BASE = {"train.total_steps": 2, "augment": "none"}
_2D = {**_BASE, "data.patch_size": (256, 256), "data.batch_size": 4}
_3D = {**_BASE, "data.patch_size": (48, 48, 48), "data.batch_size": 2}
CASES = {
    "2D 4x256x256 plain": {**_2D, "model": {"name": "unet", "ndim": 2, "features": (16, 32, 64, 128)}},
    "3D 2x48x48x48 plain": {
        **_3D,
        "model": {"name": "unet", "ndim": 3, "features": (16, 32, 64), "deep_supervision": True},
    },
}
# Every large buffer is a mapping of its own that goes back to the system when it is freed.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
STEPS = 2


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(case: str, remat: bool) -> dict[str, int]:
    """Compiles and runs a case in this process; returns the compiler's figures and what was taken, in bytes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from ml_collections import ConfigDict

    from jaxseg import plan
    from jaxseg.cli import build, compile
    from jaxseg.config import base_config
    from jaxseg.train import parallel

    config = ConfigDict(base_config().to_dict(), type_safe=False)
    for name, value in CASES[case].items():
        config.update_from_flattened_dict({name: value})
    config.model = {**CASES[case]["model"], "remat": remat}
    known = build.Facts(("image",), ("background", "one", "two"), (0, 1, 2), (), None, None)
    task = build.task(config, known)
    shapes = build.state_shapes(config, known, task)
    batch_shapes = compile.batch_shapes(config, known, pathlib.Path())
    step = parallel.compile_for(
        build.train_step(config, known, task),
        shapes,
        batch_shapes,
        jax.eval_shape(lambda: jax.random.key(0)),
        kind="pmap",
        devices=jax.devices("cpu"),
    )
    found = plan.cost(step)
    key = jax.random.key(0)
    draw = np.random.default_rng(0)

    def filled(shape: jax.ShapeDtypeStruct):
        values = draw.random(shape.shape, np.float32) * 0.02
        return jnp.array(values.astype(shape.dtype), copy=True)

    state = jax.tree.map(filled, shapes)
    batch = {
        name: jnp.array(filled(value)).reshape(1, *value.shape) if name != "index" else jnp.arange(value.shape[0])[None]
        for name, value in batch_shapes.items()
    }
    jax.block_until_ready((state, batch))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS") - found.arguments  # state and batch are all that is there of the step yet
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(STEPS):
        state, metrics = step(state, batch, key)
        jax.block_until_ready((state, metrics))
    parts = {name: getattr(found, name) for name in ("arguments", "outputs", "aliased", "temporaries", "code")}
    return {**parts, "predicted": found.peak, "taken": status("VmHWM") - before}


def in_a_process(case: str, remat: bool) -> dict[str, int]:
    """Returns what `measure` says in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", case, str(remat)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **ALLOCATOR}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2] == "True")))
        return
    print(f"{'GiB':24} {'recomputed':10} {'temporary':>9} {'predicted':>9} {'taken':>9} {'difference':>10}")
    for case in CASES:
        for remat in (False, True):
            found = in_a_process(case, remat)
            figures = " ".join(f"{found[name] / 2**30:9.3f}" for name in ("temporaries", "predicted", "taken"))
            share = found["taken"] / found["predicted"] - 1
            print(f"{case:24} {'yes' if remat else 'no':10} {figures} {share:+10.1%}", flush=True)


if __name__ == "__main__":
    main()
