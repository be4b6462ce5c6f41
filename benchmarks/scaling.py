"""One training on 1, 2, 4 and 8 devices, by pmap, by a mesh, and with volumes split over devices: how results differ.

    python -m benchmarks.scaling                      # the table of docs/scale.md; about 3 minutes on 2 idle cores
    python -m benchmarks.scaling mesh:4:4 pmap:2      # kind:devices[:spatial], against one device

A small 3D U-Net (instance norm, deep supervision) on whole volumes of 32x16x16 voxels, a global batch of 8, with random
flips and noise drawn by sample; SGD with momentum. The devices are forced ones of this CPU, each case in a process of
its own. "loss" and "gradients" are those of the first step; "parameters" are those after --steps steps. A difference is
the largest one of any value, relative to the largest value.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

CASES = [f"{kind}:{devices}" for kind in ("pmap", "mesh") for devices in (1, 2, 4, 8)] + [
    "mesh:2:2",
    "mesh:4:4",
    "mesh:8:4",
    "mesh:8:8",
]
SHAPE, BATCH = (32, 16, 16), 8


def measure(kind: str, spatial: int, steps: int) -> dict[str, np.ndarray]:
    """Trains on the devices of this process."""
    import jax

    from jaxseg import losses, models, tasks
    from jaxseg.data import augment
    from jaxseg.train import optim, parallel, step
    from jaxseg.train import state as states

    key = jax.random.key(0)
    network = models.create("unet", ndim=3, num_classes=3, features=(4, 8), deep_supervision=True)
    task = tasks.semantic(network, losses.from_string("dice_loss + cross_entropy"), num_classes=3)
    optimizers = {"model": optim.optimizer("sgd", weight_decay=0.0, no_decay="", momentum=0.9, clip_norm=0.0)}
    transform = augment.from_string("mirror|gaussian_noise", patch_size=SHAPE)
    pinned = parallel.pin(transform, kind=kind, spatial=spatial)
    schedule = optim.schedule("constant", lr=0.01)
    run, put = parallel.wrap(step.make_step(task, optimizers, schedule, augment=pinned), kind=kind, spatial=spatial)
    state = states.create(key, task, np.zeros((1, *SHAPE, 1), np.float32), optimizers, horizon=steps, ema=False)
    found = {}
    for number in range(steps):
        state, metrics = run(state, put(_batch(number)), key)
        if number == 0:  # momentum starts as the gradient
            found = {"loss": metrics["loss"], "gradients": _flat(state.opt_state)}
    return {**found, "parameters": _flat(state.params)}


def _batch(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, (BATCH, *(size // 4 for size in SHAPE))).astype(np.int32)
    for axis in (1, 2, 3):  # blocks of four voxels
        label = label.repeat(4, axis)
    image = (label + draw.normal(0, 0.5, label.shape))[..., None].astype(np.float32)
    return {"image": image, "label": label, "index": np.arange(BATCH, dtype=np.int32)}


def _flat(tree) -> np.ndarray:
    import jax

    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree) if np.ndim(leaf)]
    return np.concatenate(leaves).astype(np.float64)


def run(case: str, steps: int) -> dict[str, np.ndarray]:
    """Runs one case in a process of its own."""
    devices = case.split(":")[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "found.npz"
        command = [sys.executable, "-m", "benchmarks.scaling", case, "--steps", str(steps), "--child", str(path)]
        subprocess.run(command, check=True, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})
        with np.load(path) as file:
            return dict(file)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        from jaxseg.cli import cache

        cache.enable()
        kind, _, spatial = (*options.cases[0].split(":"), "1")[:3]
        np.savez(options.child, **measure(kind, int(spatial), options.steps))
        return
    expected = run("mesh:1", options.steps)
    print(f"{'kind':<5} {'devices':>7} {'spatial':>7} {'loss':>9} {'gradients':>9} {'parameters':>10}")
    for case in options.cases:
        kind, devices, spatial = (*case.split(":"), "1")[:3]
        found = run(case, options.steps)
        figures = [f"{difference(found[name], expected[name]):.1e}" for name in ("loss", "gradients", "parameters")]
        print(f"{kind:<5} {devices:>7} {spatial:>7} {figures[0]:>9} {figures[1]:>9} {figures[2]:>10}", flush=True)


if __name__ == "__main__":
    main()
