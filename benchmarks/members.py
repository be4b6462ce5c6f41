"""Five folds as one program against the same five one after the other: seconds for a step of all, and their difference.

    taskset -c 0 python -m benchmarks.members

The network is that of configs/unet3d_hippocampus.py at half its width, on 2 patches of 24x32x24 a fold.
"""

import functools
import time

import jax
import numpy as np

from jaxseg import losses, models, tasks
from jaxseg.train import optim, parallel
from jaxseg.train import state as states
from jaxseg.train.step import make_step

FOLDS, ROUNDS, SHAPE = 5, 5, (2, 24, 32, 24, 1)


def main() -> None:
    """Prints a table in Markdown; every round times each form once, so that drift meets all alike."""
    network = models.create("unet", ndim=3, num_classes=3, features=(8, 16, 32, 64))
    loss = losses.from_string("dice_loss(ignore_background=True) + cross_entropy")
    task = tasks.semantic(network, loss, num_classes=3)
    optimizers = {"model": optim.optimizer("sgd", weight_decay=3e-5, no_decay="", momentum=0.9, clip_norm=12.0)}
    step = make_step(task, optimizers, optim.schedule("constant", lr=1e-2))
    key = jax.random.key(0)
    one = states.create(key, task, np.zeros(SHAPE, np.float32), optimizers, horizon=100, ema=False)
    parts = [_batch(seed) for seed in range(FOLDS)]
    joined = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    alone = jax.jit(step)

    def serial(members):
        return [alone(member, part, key)[0] for member, part in zip(members, parts)]

    forms = {"one after the other": (serial, [one] * FOLDS)}
    for how in ("unroll", "vmap"):
        run, put = parallel.wrap_members(step, count=FOLDS, how=how)
        keys = jax.numpy.stack([key] * FOLDS)
        forms[how] = (functools.partial(_first, run, put(joined), keys), states.stack([one] * FOLDS))
    compiled, current = {}, {}
    for name, (run, state) in forms.items():
        began = time.monotonic()
        current[name] = jax.block_until_ready(run(state))
        compiled[name] = time.monotonic() - began
    seconds = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, (run, _) in forms.items():
            began = time.monotonic()
            current[name] = jax.block_until_ready(run(current[name]))
            seconds[name].append(time.monotonic() - began)
    reference = states.stack(current["one after the other"])
    base = float(np.median(seconds["one after the other"]))
    print("| form | a step of all folds | times as fast | first step | largest difference of a parameter |")
    print("| --- | --- | --- | --- | --- |")
    for name, values in seconds.items():
        state = reference if isinstance(current[name], list) else current[name]
        difference = jax.tree.map(
            lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), state.params, reference.params
        )
        middle = float(np.median(values))
        print(
            f"| {name} | {middle:.2f} s | {base / middle:.2f} | {compiled[name]:.0f} s | "
            f"{max(jax.tree.leaves(difference)):.1e} |"
        )


def _first(run, batch, key, state):
    return run(state, batch, key)[0]


def _batch(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, SHAPE[:-1]).astype(np.int32)
    image = (label[..., None] + draw.normal(size=SHAPE)).astype(np.float32)
    return {"image": image, "label": label, "index": np.arange(SHAPE[0], dtype=np.int32)}


if __name__ == "__main__":
    main()
