"""Forward pass, gradients and whole train step of nnU-Net's plain U-Net: ours, plain Flax convolutions, nnU-Net's own.

    python -m benchmarks.step --peer=PYTHON_WITH_NNUNETV2        # without --peer only against plain Flax

"Plain Flax" replaces `ops.conv` by `jax.lax.conv_general_dilated` and `ops.conv_transpose` by `jax.lax.conv_transpose`:
what `flax.linen.Conv` and `ConvTranspose` lower to. Everything else is the same code. nnU-Net's side is PlainConvUNet
of dynamic_network_architectures with the same layers and, by `transfer.from_torch`, the same weights: the results that
are compared are the logits, the loss, and loss and gradient norm. float32, deep supervision, Dice + cross-entropy, SGD
with momentum, weight decay and clipping, as nnU-Net trains; no augmentation. benchmarks/compare.py says how time and
memory are taken.
"""

import json
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import app

from benchmarks import compare
from benchmarks import step_nnunet as peer

# name -> what `peer.network` and both sides' functions take
CASES = {
    "2D 2x512x512": {"patch": (512, 512), "batch": 2, "features": (32, 64, 128, 256, 512)},
    "3D 2x40x56x40": {"patch": (40, 56, 40), "batch": 2, "features": (32, 64, 128, 256)},
    "3D 1x64x64x64": {"patch": (64, 64, 64), "batch": 1, "features": (32, 64, 128, 256)},
}
TINY = {
    "2D 2x32x32": {"patch": (32, 32), "batch": 2, "features": (8, 16, 32)},
    "3D 2x16x16x16": {"patch": (16, 16, 16), "batch": 2, "features": (8, 16)},
}
WORK = ("forward", "gradients", "train step")


def use_plain_convolutions() -> None:
    """Puts XLA's own convolutions in the place of ours, in this process for good."""
    from jaxseg import ops

    module = ops.conv.__globals__

    def conv(x, kernel, *, strides=1, padding="same", dilation=1, groups=1):
        return module["_conv_xla"](x, kernel, module["_geometry"](x, kernel, strides, padding, dilation, groups))

    def conv_transpose(x, kernel, *, strides, padding=0, output_padding=0):
        n = x.ndim - 2
        axes = "DHW"[-n:]
        assert (padding, output_padding) in ((0, 0), ((0,) * n, (0,) * n)), "the U-Nets' have none"
        numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        # Flax leaves out PyTorch's flip, which only gives the taps other names.
        return jax.lax.conv_transpose(x, jax.numpy.flip(kernel, range(n)), strides, "SAME", dimension_numbers=numbers)

    ops.conv, ops.conv_transpose = conv, conv_transpose


def network(patch: Sequence[int], features: Sequence[int], weights: str | None = None):
    """Returns model and variables; `weights` is a file of `peer.write_weights`."""
    from jaxseg import models, transfer

    strides = peer.strides(features)
    if weights is not None:
        with np.load(weights) as arrays:
            return transfer.from_torch(dict(arrays), "nnunet:PlainConvUNet", strides=strides, deep_supervision=True)
    model = models.create(
        "unet", ndim=len(patch), num_classes=peer.CLASSES, features=tuple(features), deep_supervision=True
    )
    return model, model.init(jax.random.key(0), np.zeros((1, *patch, 1), np.float32), train=False)


def ours(
    work: str, patch: Sequence[int], batch: int, features: Sequence[int], *, weights: str | None = None, plain=False
) -> Callable[[], np.ndarray]:
    """Returns one call of the work: gives the logits, the loss, or loss and norm of the gradient."""
    from jaxseg import losses, tasks
    from jaxseg.train import optim
    from jaxseg.train import state as states
    from jaxseg.train import step as steps

    if plain:
        use_plain_convolutions()
    model, variables = network(patch, features, weights)
    image, label = peer.images_and_labels(patch, batch)
    if work == "forward":
        predict = jax.jit(lambda variables, image: model.apply(variables, image, train=False)[0])
        return lambda: np.asarray(predict(variables, image))
    loss = losses.from_string("dice_loss(ignore_background=True) + cross_entropy")
    task = tasks.semantic(model, loss, num_classes=peer.CLASSES)
    optimizers = {"model": optim.optimizer("sgd", weight_decay=3e-5, no_decay="", momentum=0.99, clip_norm=12.0)}
    key, data = jax.random.key(0), {"image": image, "label": label}
    state = states.create(key, task, image[:1], optimizers, horizon=1000, ema=False)
    state = states.with_variables(state, {"model": variables["params"]}, state.extra)
    if work == "gradients":

        @jax.jit
        def gradients(params, data):
            (value, _), found = jax.value_and_grad(task.losses["model"], has_aux=True)(params, state.extra, data, key)
            return value, found

        def run():
            value, _ = jax.block_until_ready(gradients(state.params, data))
            return np.array([value])

        return run
    schedule = optim.schedule("constant", lr=peer.RATE)
    train = jax.jit(steps.make_step(task, optimizers, schedule), donate_argnums=0)
    held = [state]

    def step():
        held[0], metrics = jax.block_until_ready(train(held[0], data, key))
        return np.array([metrics["loss"], metrics["gradient_norm/model"]])

    return step


def rows(cases: dict, weights: dict[str, str]) -> list[compare.Row]:
    """One row a case and kind of work."""
    result = []
    for name, case in cases.items():
        for work in WORK:
            options = {"work": work, **case}
            own = {**options, "weights": weights.get(name)}
            sides = (
                compare.Side("ours", "benchmarks.step:ours", own),
                compare.Side("plain Flax", "benchmarks.step:ours", {**own, "plain": True}),
                compare.Side("nnU-Net", "benchmarks.step_nnunet:theirs", options, peer=True),
            )
            result.append(compare.Row(f"{name}, {work}", sides, tolerance=1e-3))
    return result


def write_weights(cases: dict, folder: str) -> dict[str, str]:
    """Has the peer write a state dict for each case; nothing without a peer."""
    if not compare.PEER.value:
        return {}
    files = {name: f"{folder}/{number}.npz" for number, name in enumerate(cases)}
    for name, case in cases.items():
        command = [compare.PEER.value, "-m", peer.__name__, files[name], json.dumps(case)]
        subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parents[1])
    return files


def main(_) -> None:
    cases = TINY if compare.TINY.value else CASES
    with tempfile.TemporaryDirectory() as folder:
        compare.table(rows(cases, write_weights(cases, folder)))


if __name__ == "__main__":
    app.run(main)
