"""Times `ops.conv` against XLA's own convolution (what Flax's `nn.Conv` calls) on this machine, in one interleaved run.

    JAX_PLATFORMS=cpu python -m benchmarks.conv

Prints milliseconds of ours and how many times longer XLA's takes: the forward pass, and it with both gradients.
"""

import functools
import time

import jax
from jax import lax

from jaxseg import ops

# image (B, *S, C), kernel, output channels, strides
CASES = [
    ((2, 40, 56, 40, 32), (3, 3, 3), 32, 1),
    ((2, 20, 28, 20, 64), (3, 3, 3), 64, 1),
    ((2, 10, 14, 10, 128), (3, 3, 3), 128, 1),
    ((2, 5, 7, 5, 256), (3, 3, 3), 256, 1),
    ((2, 40, 56, 40, 64), (3, 3, 3), 32, 1),
    ((2, 40, 56, 40, 1), (3, 3, 3), 32, 1),
    ((2, 40, 56, 40, 32), (3, 3, 3), 64, 2),
    ((2, 20, 28, 20, 64), (3, 3, 3), 128, 2),
    ((2, 16, 64, 64, 32), (1, 3, 3), 32, 1),
    ((2, 40, 56, 40, 32), (1, 1, 1), 3, 1),
    ((4, 256, 256, 32), (3, 3), 32, 1),
    ((4, 128, 128, 64), (3, 3), 64, 1),
    ((4, 32, 32, 256), (3, 3), 256, 1),
    ((4, 128, 128, 32), (3, 3), 64, 2),
    ((4, 256, 256, 32), (1, 1), 4, 1),
]


def plain(x, kernel, *, strides):
    """The same convolution by XLA."""
    n = x.ndim - 2
    axes = "DHW"[-n:]
    pairs = [((k - 1) // 2,) * 2 for k in kernel.shape[:n]]
    return lax.conv_general_dilated(
        x, kernel, (strides,) * n, pairs, dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C")
    )


def with_gradients(conv, x, kernel, cotangent):
    """Forward pass and both gradients."""
    y, pull = jax.vjp(conv, x, kernel)
    return y, *pull(cotangent)


def milliseconds(functions: list, repeats: int = 7) -> list[float]:
    """The fastest run of each function, taken in turns so that other load hits all alike."""
    best = [float("inf")] * len(functions)
    for function in functions:
        jax.block_until_ready(function())
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function())
            best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
    return best


def main() -> None:
    print(
        f"{'image':24} {'kernel':10} {'out':>4} {'stride':>6} {'forward':>10} {'XLA':>7} {'+gradients':>11} {'XLA':>7}"
    )
    for shape, taps, outputs, strides in CASES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], shape)
        kernel = 0.05 * jax.random.normal(keys[1], (*taps, shape[-1], outputs))
        convs = [functools.partial(conv, strides=strides) for conv in (ops.conv, plain)]
        cotangent = jax.random.normal(keys[2], jax.eval_shape(convs[0], x, kernel).shape)
        forward = [functools.partial(jax.jit(conv), x, kernel) for conv in convs]
        both = [
            functools.partial(jax.jit(with_gradients, static_argnums=0), conv, x, kernel, cotangent) for conv in convs
        ]
        ours, xla, ours_all, xla_all = milliseconds(forward + both)
        image, size = "x".join(map(str, shape)), "x".join(map(str, taps))
        print(
            f"{image:24} {size:10} {outputs:>4} {strides:>6} {ours:7.1f} ms {xla / ours:6.1f}x"
            f" {ours_all:8.1f} ms {xla_all / ours_all:6.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
