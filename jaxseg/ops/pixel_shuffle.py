"""Depth to space: channels become places, so that a network may compute in low resolution and answer in high."""

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped


def pixel_shuffle(x: Shaped[Array | np.ndarray, "B *S C"], factors: int | Sequence[int]) -> Shaped[Array, "B *T O"]:
    """Enlarges each spatial axis by its factor and divides the channels by the factors' product (Shi et al. 2016).

    Channel `c * r1 * r2 + i * r2 + j` becomes channel c at the place (i, j) of each r1 x r2 block: the order of
    PyTorch's `pixel_shuffle`, in 2D and 3D.

    Args:
      x: batch of images.
      factors: one number, or one a spatial axis (1 leaves the axis as it is).

    Raises:
      ValueError: a factor below 1 or of another rank, or channels that the product does not divide.
    """
    x = jnp.asarray(x)
    batch, *size, channels = x.shape
    n = len(size)
    factors = (factors,) * n if isinstance(factors, int) else tuple(factors)
    if len(factors) != n or min(factors) < 1:
        raise ValueError(f"pixel_shuffle takes one factor from 1 up, or {n} of them; it got {factors}.")
    if channels % math.prod(factors):
        raise ValueError(
            f"pixel_shuffle by {factors} needs channels divisible by {math.prod(factors)}; got {channels}."
        )
    y = x.reshape(batch, *size, channels // math.prod(factors), *factors)
    places = itertools.chain.from_iterable((1 + axis, 2 + n + axis) for axis in range(n))
    y = y.transpose(0, *places, 1 + n)  # (B, S1, r1, S2, r2, ..., O)
    return y.reshape(batch, *(length * factor for length, factor in zip(size, factors)), y.shape[-1])
