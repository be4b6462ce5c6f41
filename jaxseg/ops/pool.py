"""Pooling with windows that do not overlap: a reshape and one reduction, fast and differentiable on every backend."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(x: Float[Array, "B *S C"], window: int | Sequence[int]) -> Float[Array, "B *T C"]:
    """The largest value of each `window` (one number, or one an axis), which is the stride too.

    Equal maxima share the gradient.

    Raises:
      ValueError: the window does not divide the image's size.
    """
    return _pool(x, window, jnp.max)


def average_pool(x: Float[Array, "B *S C"], window: int | Sequence[int]) -> Float[Array, "B *T C"]:
    """The mean of each `window` (one number, or one an axis), which is the stride too; summed in float32.

    Raises:
      ValueError: the window does not divide the image's size.
    """
    return _pool(x, window, _mean)


def _mean(x: Array, axis: tuple[int, ...]) -> Array:
    return jnp.mean(x, axis=axis, dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)


def _pool(x: Array, window: int | Sequence[int], reduce: Callable) -> Array:
    batch, *size, channels = x.shape
    steps = (window,) * len(size) if isinstance(window, int) else tuple(window)
    if len(steps) != len(size) or min(steps) < 1 or any(length % step for length, step in zip(size, steps)):
        raise ValueError(f"A pooling window should divide the image's size {tuple(size)}; it is {window}.")
    if set(steps) == {1}:
        return x
    split = [part for length, step in zip(size, steps) for part in (length // step, step)]
    return reduce(x.reshape(batch, *split, channels), axis=tuple(range(2, 2 + 2 * len(size), 2)))
