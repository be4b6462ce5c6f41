"""Train step and inference of our U-Nets against the same networks with plain Flax convolutions, in one run.

    python -m benchmarks.step            # 2D and 3D, about 3 minutes on 2 CPU cores

"Plain" replaces `ops.conv` by `jax.lax.conv_general_dilated` and `ops.conv_transpose` by `jax.lax.conv_transpose`: what
`flax.linen.Conv` and `ConvTranspose` lower to. Everything else is the same code. Figures are medians of 3 runs; the
ratio is plain / ours.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import seconds
from jaxseg import losses, models, ops, tasks
from jaxseg.train import optim, step
from jaxseg.train import state as states

CASES = {
    "2D 4x256x256": {"patch": (256, 256), "batch": 4, "features": (16, 32, 64, 128)},
    "3D 2x40x56x40": {"patch": (40, 56, 40), "batch": 2, "features": (16, 32, 64, 128)},
}


@contextlib.contextmanager
def plain_convolutions():
    """Puts XLA's own convolutions in the place of ours."""
    from jaxseg.ops import conv as module_function

    ours = ops.conv, ops.conv_transpose
    geometry = module_function.__globals__["_geometry"]
    xla = module_function.__globals__["_conv_xla"]

    def conv(x, kernel, *, strides=1, padding="same", dilation=1, groups=1):
        return xla(x, kernel, geometry(x, kernel, strides, padding, dilation, groups))

    def conv_transpose(x, kernel, *, strides):
        axes = "DHW"[-(x.ndim - 2) :]
        numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        return jax.lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=numbers)

    ops.conv, ops.conv_transpose = conv, conv_transpose
    try:
        yield
    finally:
        ops.conv, ops.conv_transpose = ours


def measure(patch, batch, features) -> tuple[float, float]:
    """Returns seconds of one train step (without augmentation) and of one forward pass."""
    model = models.create("unet", ndim=len(patch), num_classes=3, features=features, deep_supervision=True)
    loss = losses.from_string("dice_loss(ignore_background=True) + cross_entropy")
    task = tasks.semantic(model, loss, num_classes=3)
    optimizers = {"model": optim.optimizer("adamw", weight_decay=1e-5, no_decay="bias$", clip_norm=12.0)}
    draw = np.random.default_rng(0)
    data = {
        "image": draw.normal(size=(batch, *patch, 1)).astype(np.float32),
        "label": draw.integers(0, 3, (batch, *patch)).astype(np.int32),
    }
    key = jax.random.key(0)
    state = states.create(key, task, jnp.zeros((1, *patch, 1)), optimizers, horizon=100, ema=False)
    variables = {"params": state.params, "extra": state.extra}
    train = jax.jit(step.make_step(task, optimizers, optim.schedule("cosine", lr=1e-3)))
    predict = jax.jit(functools.partial(task.predict, variables))
    return (
        seconds(lambda: jax.block_until_ready(train(state, data, key))),
        seconds(lambda: jax.block_until_ready(predict(data["image"]))),
    )


def main() -> None:
    print(f"{'':16} {'':10} {'plain':>9} {'ours':>9} {'ratio':>6} {'images/s':>9}")
    for name, case in CASES.items():
        ours = measure(**case)
        with plain_convolutions():
            plain = measure(**case)
        for what, before, after in zip(("train step", "forward"), plain, ours):
            rate = case["batch"] / after
            print(f"{name:16} {what:10} {before:8.3f}s {after:8.3f}s {before / after:6.2f} {rate:9.2f}", flush=True)


if __name__ == "__main__":
    main()
