"""Pooling and its inverse as reshapes and elementwise maxima: fast and differentiable on every backend."""

import functools
import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

MOST_TAPS = 255  # places in a window that an uint8 index can name


def max_pool(
    x: Float[Array | np.ndarray, "B *S C"],
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
) -> Float[Array, "B *T C"]:
    """The largest value of each `window`, as PyTorch's `max_pool2d` and `max_pool3d`.

    Args:
      x: batch of images.
      window: its size, one number or one a spatial axis.
      strides: the step from window to window, alike (what is left over at the far end is dropped); None: the window's
        size, which must then divide the image's.
      padding: cells of minus infinity on both sides of each axis, at most half a window.

    Equal maxima share the gradient.

    Raises:
      ValueError: the windows do not divide the image's size, or none fits.
    """
    x = jnp.asarray(x)
    if strides is None and padding == 0:
        return _largest(x, _dividing(window, x.shape[1:-1]))
    size = x.shape[1:-1]
    window = _per_axis(window, size, "window")
    strides = window if strides is None else _per_axis(strides, size, "strides")
    padding = _per_axis(padding, size, "padding", least=0)
    if any(2 * p > w for p, w in zip(padding, window)):
        raise ValueError(f"max_pool takes a padding of at most half the window {window}; it got {padding}.")
    counts = tuple((n + 2 * p - w) // s + 1 for n, p, w, s in zip(size, padding, window, strides))
    if min(counts) < 1:
        raise ValueError(f"No pooling window of size {window} fits an image of size {size} padded by {padding}.")
    # A maximum of shifted images: XLA's windowed reduction has a gradient ten times as slow on CPU.
    pairs = ((0, 0), *((p, p) for p in padding), (0, 0))
    padded = jnp.pad(x, pairs, constant_values=-jnp.inf)
    shifted = []
    for offsets in itertools.product(*map(range, window)):
        part = padded
        for axis, (start, count, stride) in enumerate(zip(offsets, counts, strides), start=1):
            part = lax.slice_in_dim(part, start, start + stride * (count - 1) + 1, stride, axis)
        shifted.append(part)
    return functools.reduce(jnp.maximum, shifted)


def max_pool_indices(
    x: Float[Array | np.ndarray, "B *S C"], window: int | Sequence[int]
) -> tuple[Float[Array, "B *T C"], UInt8[Array, "B *T C"]]:
    """The largest value of each `window`, which is the stride too, and where in its window it stood.

    The index counts a window's cells row by row (in 2D with window 2: 0, 1 above 2, 3); of equal maxima the first is
    taken, as in PyTorch, and it alone gets the gradient. `max_unpool` puts values back there.

    Raises:
      ValueError: the window does not divide the image's size, or has more than 255 cells.
    """
    window = _dividing(window, x.shape[1:-1])
    if math.prod(window) > MOST_TAPS:
        raise ValueError(f"max_pool_indices takes windows of at most {MOST_TAPS} cells; {window} has more.")
    cells = _cells(jnp.asarray(x), window)
    indices = jnp.argmax(cells, axis=-2)
    pooled = jnp.take_along_axis(cells, indices[..., None, :], axis=-2)[..., 0, :]
    return pooled, indices.astype(jnp.uint8)


def max_unpool(
    x: Float[Array | np.ndarray, "B *T C"], indices: UInt8[Array | np.ndarray, "B *T C"], window: int | Sequence[int]
) -> Float[Array, "B *S C"]:
    """Puts each value where `max_pool_indices` had found its maximum, zeros elsewhere (SegNet's upsampling).

    Raises:
      ValueError: values and indices differ in shape.
    """
    if x.shape != indices.shape:
        raise ValueError(f"max_unpool takes an index a value; it got values {x.shape} and indices {indices.shape}.")
    window = _per_axis(window, x.shape[1:-1], "window")
    batch, *size, channels = x.shape
    places = jnp.arange(math.prod(window), dtype=indices.dtype)[:, None]
    cells = jnp.where(indices[..., None, :] == places, x[..., None, :], jnp.zeros((), x.dtype))
    cells = cells.reshape(batch, *size, *window, channels)
    n = len(size)
    order = itertools.chain.from_iterable((1 + axis, 1 + n + axis) for axis in range(n))
    cells = cells.transpose(0, *order, 2 * n + 1)  # (B, T1, w1, T2, w2, ..., C)
    return cells.reshape(batch, *(length * step for length, step in zip(size, window)), channels)


def average_pool(x: Float[Array | np.ndarray, "B *S C"], window: int | Sequence[int]) -> Float[Array, "B *T C"]:
    """The mean of each `window` (one number, or one an axis), which is the stride too; summed in float32.

    Raises:
      ValueError: the window does not divide the image's size.
    """
    x = jnp.asarray(x)
    steps = _dividing(window, x.shape[1:-1])
    if set(steps) == {1}:
        return x
    axes = tuple(range(2, 2 + 2 * len(steps), 2))
    return jnp.mean(_split(x, steps), axis=axes, dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)


def _largest(x: Array, steps: Sequence[int]) -> Array:
    """One axis after the other, by maxima of pairs.

    Not by `jnp.max`: its gradient divides by how many cells equal the maximum, and where the compiler computes the
    cells twice, once rounded otherwise, none does.
    """
    for axis, step in enumerate(steps, start=1):
        if step == 1:
            continue
        parts = [lax.slice_in_dim(x, start, None, step, axis) for start in range(step)]
        x = functools.reduce(jnp.maximum, parts)
    return x


def _split(x: Array, window: Sequence[int]) -> Array:
    """(B, S1, S2, C) -> (B, S1 / w1, w1, S2 / w2, w2, C)."""
    batch, *size, channels = x.shape
    split = [part for length, step in zip(size, window) for part in (length // step, step)]
    return x.reshape(batch, *split, channels)


def _cells(x: Array, window: Sequence[int]) -> Array:
    """(B, S1, S2, C) -> (B, S1 / w1, S2 / w2, w1 * w2, C)."""
    n = len(window)
    split = _split(x, window)
    split = split.transpose(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
    return split.reshape(*split.shape[: n + 1], math.prod(window), x.shape[-1])


def _per_axis(value: int | Sequence[int], size: Sequence[int], name: str, *, least: int = 1) -> tuple[int, ...]:
    values = (value,) * len(size) if isinstance(value, int) else tuple(value)
    if len(values) != len(size) or min(values) < least:
        raise ValueError(f"{name} should be one number from {least} up, or {len(size)} of them; it is {value}.")
    return values


def _dividing(window: int | Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    steps = (window,) * len(size) if isinstance(window, int) else tuple(window)
    if len(steps) != len(size) or min(steps) < 1 or any(length % step for length, step in zip(size, steps)):
        raise ValueError(f"A pooling window should divide the image's size {tuple(size)}; it is {window}.")
    return steps
