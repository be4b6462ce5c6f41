"""A sliding window over a 256x256x128 volume with one small U-Net: ours, nnU-Net's predictor, MONAI's inferer.

    python -m benchmarks.sliding_window --peer=PYTHON_WITH_NNUNETV2_AND_MONAI --turns=1 --runs=1

The network is nnU-Net's plain one with the same weights on every side (see benchmarks/step.py); windows of 64x64x64,
overlap 1/2, gaussian weights, no flips, one window a call: 147 windows. The label maps are compared. They need not be
equal: ours blends probabilities in float32, MONAI logits in float32, nnU-Net logits in float16, and the weights are not
trained, so that classes lie close to one another.
"""

import functools
import tempfile
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import app

from benchmarks import compare, step
from benchmarks import sliding_window_peers as peers

CASE = {"volume": (128, 256, 256), "patch": (64, 64, 64), "features": (16, 32, 64, 128)}
TINY = {"volume": (20, 32, 24), "patch": (16, 16, 16), "features": (8, 16)}


def ours(
    volume: Sequence[int],
    patch: Sequence[int],
    features: Sequence[int],
    weights: str | None = None,
    plain: bool = False,
) -> Callable[[], np.ndarray]:
    """Returns one prediction of the volume by `predict.predict_array`."""
    from jaxseg import predict

    if plain:
        step.use_plain_convolutions()
    model, variables = step.network(patch, features, weights)
    network = jax.jit(lambda variables, image: jax.nn.softmax(model.apply(variables, image, train=False)[0]))
    predict_fn, image = functools.partial(network, variables), peers.volume(volume)
    return lambda: predict.predict_array(predict_fn, image, ndim=3, window=patch, overlap=0.5).argmax(-1)


def rows(case: dict, weights: dict[str, str]) -> list[compare.Row]:
    """One row."""
    name = "x".join(map(str, case["volume"]))
    own = {**case, "weights": weights.get(name)}
    sides = (
        compare.Side("ours", "benchmarks.sliding_window:ours", own),
        compare.Side("plain Flax", "benchmarks.sliding_window:ours", {**own, "plain": True}),
        compare.Side("nnU-Net", "benchmarks.sliding_window_peers:nnunet", case, peer=True),
        compare.Side("MONAI", "benchmarks.sliding_window_peers:monai", case, peer=True),
    )
    return [compare.Row(name, sides, tolerance=0.0)]


def main(_) -> None:
    case = TINY if compare.TINY.value else CASE
    name = "x".join(map(str, case["volume"]))
    network = {"patch": case["patch"], "batch": 1, "features": case["features"]}
    with tempfile.TemporaryDirectory() as folder:
        compare.table(rows(case, step.write_weights({name: network}, folder)))


if __name__ == "__main__":
    app.run(main)
