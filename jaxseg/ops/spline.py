"""Resampling of one axis as a matrix, whose sizes may be known at run time only: static shapes, any image within."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

POLE = math.sqrt(3) - 2  # of the cubic B-spline's inverse filter, whose response is sqrt(3) POLE^|k|
REACH = 16  # samples on both sides that the inverse filter looks at; POLE^16 is below 1e-9
Size = int | Int[Array | np.ndarray, ""]


def resample_matrix(
    size: Size,
    new_size: Size,
    order: Size,
    *,
    shape: tuple[int, int],
    smooth: int,
    row_start: Size = 0,
    column_start: Size = 0,
) -> Float[Array, "rows columns"]:
    """Returns the matrix that brings an axis of `size` samples to `new_size`, among zeros.

    It interpolates as `data.resample` does on the host: half-pixel centres, edges repeated, B-splines. Where samples
    lie is decided in whole numbers, so that no rounding moves one.

    Args:
      size: how many samples there are, in `shape[1]` places from `column_start` on; may be traced, as all but the
        options `shape` and `smooth` may.
      new_size: how many there will be, in `shape[0]` places from `row_start` on (negative: without the first ones).
      order: `smooth`, or 0 for the nearest sample; 0 is also what an axis gets that keeps its size.
      shape: (rows, columns) of the matrix.
      smooth: the order of the splines, 1 or 3.

    Raises:
      ValueError: another order of splines.

    Source: Unser, Aldroubi and Eden, B-spline signal processing, IEEE Transactions on Signal Processing 1993.
    """
    if smooth not in (1, 3):
        raise ValueError(f"smooth should be 1 or 3, got {smooth}.")
    rows = jnp.arange(shape[0]) - row_start
    columns = jnp.arange(shape[1]) - column_start
    # Sample i of the new axis lies at ((2 i + 1) size - new_size) / (2 new_size) of the old one.
    place = (2 * rows + 1) * size - new_size
    floor = place // (2 * new_size)
    nearest = (2 * rows + 1) * size // (2 * new_size)
    offsets, weights = _weights((place % (2 * new_size)) / (2 * new_size), smooth)
    plain = (order == 0) | (size == new_size)
    base = jnp.where(plain, nearest, floor)
    weights = jnp.where(plain, (np.array(offsets) == 0).astype(np.float32), weights)
    matrix = jnp.zeros(shape, jnp.float32)
    for number, offset in enumerate(offsets):
        source = jnp.clip(base + offset, 0, size - 1)
        matrix = matrix + jnp.where(source[:, None] == columns, weights[:, number, None], 0.0)
    inside = (rows >= 0) & (rows < new_size)
    return jnp.where(inside[:, None], matrix, 0.0)


def _weights(t: Float[Array, " rows"], smooth: int) -> tuple[list[int], Float[Array, "rows offsets"]]:
    """Returns the samples that count, as offsets from the one at or before, and their weights at the fraction `t`."""
    if smooth == 1:
        return [0, 1], jnp.stack([1 - t, t], axis=1)
    taps = jnp.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    offsets = list(range(-1 - REACH, 3 + REACH))
    # Each of the four coefficients -1, 0, 1, 2 is a sum over samples around it.
    response = np.zeros((4, len(offsets)), np.float32)
    for tap, step in itertools.product(range(4), range(-REACH, REACH + 1)):
        response[tap, tap + step + REACH] = math.sqrt(3) * POLE ** abs(step)
    return offsets, sum(taps[:, tap, None] * response[tap] for tap in range(4))
