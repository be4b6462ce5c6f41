"""Ways to write the weight gradient of a 3x3 convolution on a CPU: GFLOP/s of each, all with equal results.

    NPROC=1 JAX_PLATFORMS=cpu python -m benchmarks.weight_gradient

NPROC=1 gives XLA one thread. Times are CPU seconds of the process, the least of five calls taken in turns, so that
other load on the machine counts little.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg import ops

# images (or slices of volumes, which are folded into the batch), height, width, channels in, channels out
CASES = [
    (40, 56, 40, 32, 32),
    (20, 28, 20, 64, 64),
    (10, 14, 10, 128, 128),
    (2, 512, 512, 32, 32),
    (4, 256, 256, 32, 32),
    (2, 256, 256, 64, 64),
    (4, 32, 32, 128, 128),
]


def _by_kernel(conv, x, dy):
    """The gradient of a convolution by its kernel."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(dy)[0]


def pieces(x, dy):
    """Ours: `ops.conv`'s sum over pieces."""
    kernel = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]))
    return jax.vjp(lambda kernel: ops.conv(x, kernel), kernel)[1](dy)[0]


def whole(x, dy):
    """XLA's gradient: one convolution with a kernel the size of the image."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return _by_kernel(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers), x, dy)


def _taps(array, axis, reverse=False):
    """Three shifted copies along an axis, stacked on the channels."""
    size = array.shape[axis]
    padded = jnp.pad(array, [(1, 1) if i == axis else (0, 0) for i in range(4)])
    starts = (2, 1, 0) if reverse else (0, 1, 2)
    return jnp.concatenate([lax.slice_in_dim(padded, start, start + size, axis=axis) for start in starts], axis=-1)


def stacked(x, dy):
    """One matrix product: taps along the width stacked on the input, along the height on the gradient."""
    product = jnp.einsum("nhwi,nhwo->io", _taps(x, 2), _taps(dy, 1, reverse=True))
    return product.reshape(3, x.shape[-1], 3, -1).transpose(2, 0, 1, 3)


def im2col(x, dy):
    """One matrix product: all nine taps stacked on the input."""
    product = jnp.einsum("nhwi,nhwo->io", _taps(_taps(x, 2), 1), dy)
    return product.reshape(3, 3, x.shape[-1], -1)


def nine(x, dy):
    """Nine matrix products, one a tap."""
    padded, (high, wide) = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), x.shape[1:3]
    taps = [jnp.einsum("nhwi,nhwo->io", padded[:, a : a + high, b : b + wide], dy) for a in range(3) for b in range(3)]
    return jnp.stack(taps).reshape(3, 3, x.shape[-1], -1)


def main() -> None:
    ways = (pieces, whole, stacked, im2col, nine)
    print(f"| images | {' | '.join(way.__name__ for way in ways)} |\n|" + " --- |" * (1 + len(ways)))
    for number, high, wide, inputs, outputs in CASES:
        draw = np.random.default_rng(0)
        x = jnp.asarray(draw.normal(size=(number, high, wide, inputs)), jnp.float32)
        dy = jnp.asarray(draw.normal(size=(number, high, wide, outputs)), jnp.float32)
        calls = [jax.jit(way) for way in ways]
        results = [np.asarray(call(x, dy)) for call in calls]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], atol=1e-4 * np.abs(results[0]).max())
        best = [float("inf")] * len(calls)
        for _ in range(5):
            for i, call in enumerate(calls):
                began = time.process_time()
                jax.block_until_ready(call(x, dy))
                best[i] = min(best[i], time.process_time() - began)
        flops = 2 * 9 * x.size * outputs
        rates = " | ".join(f"{flops / seconds / 1e9:.0f}" for seconds in best)
        print(f"| {number}x{high}x{wide}x{inputs} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
