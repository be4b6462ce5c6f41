"""Resampling on the host, axis by axis: splines of order 3, 1 or 0 with half-pixel centres and edge padding.

Interpolation by tensor-product splines is separable, so every axis is a short weighted sum of gathered planes. The
values are those of `skimage.transform.resize(mode="edge", anti_aliasing=False)`, which nnU-Net uses, at a fraction of
the work, and the anisotropic rule of nnU-Net is nothing but another order for one axis. float32 throughout.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage

ANISOTROPY = 3  # nnU-Net: an axis whose spacing is more than three times the smallest stands out
SPLINE_PADDING = 12  # edge planes before the cubic prefilter; its response has fallen to 1e-7 there
SLAB_BYTES = 2**26


class Taps(NamedTuple):
    """Output plane i of an axis is the sum over t of `weight[i, t] * input[place[i, t]]`."""

    place: np.ndarray
    weight: np.ndarray

    def rows(self, start: int, stop: int) -> "Taps":
        """Returns the taps of output planes start..stop-1."""
        return Taps(self.place[start:stop], self.weight[start:stop])


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Returns round(old spacing / new spacing x old size) per axis, half to even, at least 1 (nnU-Net)."""
    return tuple(max(1, round(old / new * size)) for size, old, new in zip(shape, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """Returns the one axis to be treated by nearest neighbour, or None (nnU-Net; the current spacing is asked first).

    Args:
      spacing: millimetres of the grid at hand, in array order.
      target: millimetres of the grid wanted.
    """
    if len(spacing) < 3:
        return None
    for candidate in (np.asarray(spacing, np.float64), np.asarray(target, np.float64)):
        if candidate.max() / candidate.min() > ANISOTROPY:
            coarse = np.flatnonzero(candidate == candidate.max())
            return int(coarse[0]) if len(coarse) == 1 else None
    return None


def axis_orders(spacing: Sequence[float], target: Sequence[float], *, order: int) -> tuple[int, ...]:
    """Returns the spline order of each axis: `order`, and 0 for an axis that stands out by its coarse spacing."""
    separate = separate_axis(spacing, target)
    return tuple(0 if axis == separate else order for axis in range(len(spacing)))


def taps(size: int, new_size: int, order: int) -> Taps:
    """Returns the interpolation of one axis: half-pixel centres, indices clamped (order 3: into the padded axis)."""
    rows = np.arange(new_size)
    if size == new_size or order == 0:
        # In integers, so that no rounding decides a tie: floor((i + 1/2) size / new_size).
        nearest = (2 * rows + 1) * size // (2 * new_size)
        return Taps(nearest[:, None], np.ones((new_size, 1), np.float32))
    position = (rows + 0.5) * (size / new_size) - 0.5
    floor = np.floor(position).astype(np.int64)
    t = position - floor
    if order == 1:
        index, weight = floor[:, None] + np.arange(2), np.stack([1 - t, t], axis=1)
        return Taps(np.clip(index, 0, size - 1), weight.astype(np.float32))
    if order == 3:
        index = floor[:, None] + np.arange(-1, 3) + SPLINE_PADDING
        weight = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
        return Taps(index, weight.astype(np.float32))
    raise ValueError(f"The spline order should be 0, 1 or 3, got {order}.")


def gather(array: np.ndarray, axis: int, rows: Taps) -> np.ndarray:
    """Applies taps to one axis; a plain run of planes is returned as a view."""
    first = rows.place[:, 0]
    if rows.place.shape[1] == 1:
        if np.array_equal(first, np.arange(first[0], first[0] + len(first))):
            return array[(slice(None),) * axis + (slice(first[0], first[0] + len(first)),)]
        return np.take(array, first, axis)
    shape = [1] * array.ndim
    shape[axis] = len(first)
    result = np.take(array, first, axis) * rows.weight[:, 0].reshape(shape)
    for tap in range(1, rows.place.shape[1]):
        part = np.take(array, rows.place[:, tap], axis)
        part *= rows.weight[:, tap].reshape(shape)
        result += part
    return result


def resize_axis(array: np.ndarray, axis: int, size: int, order: int, *, limit: int = SLAB_BYTES) -> np.ndarray:
    """Resizes one axis of a float32 array, in blocks of another one, so that temporaries stay near `limit` bytes."""
    lines = (*array.shape[:axis], 0, *array.shape[axis + 1 :])
    other = int(np.argmax(lines))
    blocks = -(-array.nbytes // limit)
    if blocks < 2 or size == array.shape[axis] or lines[other] < 2:
        return _resize_lines(array, axis, size, order)
    result = np.empty((*array.shape[:axis], size, *array.shape[axis + 1 :]), np.float32)
    step = max(1, lines[other] // blocks)
    for start in range(0, lines[other], step):
        block = (slice(None),) * other + (slice(start, start + step),)
        result[block] = _resize_lines(array[block], axis, size, order)
    return result


def _resize_lines(array: np.ndarray, axis: int, size: int, order: int) -> np.ndarray:
    """Resizes one axis of a float32 array, all lines along it at once."""
    old = array.shape[axis]
    if order == 3 and size != old:
        padding = [(SPLINE_PADDING, SPLINE_PADDING) if i == axis else (0, 0) for i in range(array.ndim)]
        array = np.pad(array, padding, mode="edge")
        array = scipy.ndimage.spline_filter1d(array, 3, axis=axis, output=np.float32, mode="nearest")
    return gather(array, axis, taps(old, size, order))


def resize(array: np.ndarray, shape: Sequence[int], orders: Sequence[int]) -> np.ndarray:
    """Resizes the leading axes of `array` to `shape`; trailing axes (channels) are kept.

    Cubic splines overshoot, so their result is clipped to the range of the input: of each channel, and where an axis is
    taken by nearest neighbour, of each plane of it, as nnU-Net's resize plane by plane does.

    Args:
      array: `(*S, ...)`, any real type.
      shape: the new sizes of the spatial axes.
      orders: the spline order of each axis: 0, 1 or 3.

    Returns:
      float32 array.
    """
    array = np.asarray(array, dtype=np.float32)
    shape = tuple(shape)
    if array.shape[: len(shape)] == shape:
        return array
    smooth = tuple(axis for axis, order in enumerate(orders) if order)
    limits = [array.min(smooth, keepdims=True), array.max(smooth, keepdims=True)] if 3 in orders else []
    own = False  # whether the values may be clipped in place
    # Axes that shrink go first: less is left to do for the others.
    for axis in sorted(range(len(shape)), key=lambda axis: shape[axis] / array.shape[axis]):
        resized = resize_axis(array, axis, shape[axis], orders[axis])
        own = own or not np.may_share_memory(resized, array)
        array = resized
        if orders[axis] == 0:
            limits = [resize_axis(limit, axis, shape[axis], 0) for limit in limits]
    if not limits:
        return array
    return np.clip(array, *limits, out=array) if own else np.clip(array, *limits)


def resize_labels(labels: np.ndarray, shape: Sequence[int], orders: Sequence[int]) -> np.ndarray:
    """Resizes a label map class by class as one-hot planes and keeps the largest share; a tie goes to the higher id.

    With two classes this is nnU-Net's threshold at 1/2. Where three or more meet and none reaches 1/2, nnU-Net leaves
    background; here the largest share wins. Each class is computed only where it can be: small classes are cheap.

    Args:
      labels: `(*S)` integers; IGNORE is a class like another.
      shape: the new sizes.
      orders: 1 or 0 per axis.
    """
    shape = tuple(shape)
    if labels.shape == shape:
        return labels
    table = [taps(old, new, order) for old, new, order in zip(labels.shape, shape, orders, strict=True)]
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, labels.dtype)
    for value in np.unique(labels):
        plane = labels == value
        rows = [_rows_touching(rows, *_extent(plane, axis)) for axis, rows in enumerate(table)]
        if any(start == stop for start, stop in rows):
            continue  # a thin structure that falls between the planes nearest neighbour picks
        share = plane.astype(np.float32)
        for axis, (start, stop) in enumerate(rows):
            share = gather(share, axis, table[axis].rows(start, stop))
        place = tuple(slice(start, stop) for start, stop in rows)
        wins = (share >= best[place]) & (share > 0)
        best[place][wins] = share[wins]
        result[place][wins] = value
    return result


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """Returns first and last + 1 index along `axis` at which the mask is set somewhere."""
    line = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
    return int(line[0]), int(line[-1]) + 1


def _rows_touching(rows: Taps, start: int, stop: int) -> tuple[int, int]:
    """Returns the range of output planes that read an input plane in start..stop-1 (indices ascend: it is one)."""
    touched = np.flatnonzero(((rows.place >= start) & (rows.place < stop)).any(axis=1))
    return (int(touched[0]), int(touched[-1]) + 1) if len(touched) else (0, 0)


def slabs(
    array: np.ndarray, shape: Sequence[int], orders: Sequence[int], *, limit: int = SLAB_BYTES
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Resizes `(*S, K)` with orders 1 or 0 and yields it in slabs of the first axis, see `stream`."""
    table = [taps(old, new, order) for old, new, order in zip(array.shape, shape, orders)]
    return stream([(0, array)], table, limit=limit)


def stream(
    pieces: Iterable[tuple[int, np.ndarray]], table: Sequence[Taps], *, limit: int = SLAB_BYTES
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Resizes `(*S, K)` that comes in pieces of its first axis, and yields each output plane once its inputs are there.

    The values do not depend on how the planes are cut into pieces. Between two pieces at most the planes are kept that
    both sides of the cut need: one, of order 1.

    Args:
      pieces: `(first plane, planes (n, *S[1:], K))`, in order and without gaps; the memory of one may be used again
        once the next one is asked for.
      table: the taps of each spatial axis, of order 1 or 0.
      limit: bytes of a slab.

    Yields:
      `start, stop, slab`, where slab is `(stop - start, *T[1:], K)` float32 and takes about `limit` bytes at most
      (one plane of the first axis at least).
    """
    rows = table[0]
    lowest, highest = rows.place.min(axis=1), rows.place.max(axis=1)  # both ascend
    done, kept, before = 0, None, 0
    for first, piece in pieces:
        plane = 4 * int(np.prod([len(axis.place) for axis in table[1:]], dtype=np.int64)) * piece.shape[-1]
        step = max(1, limit // max(plane, 1))
        ready = int(np.searchsorted(highest, first + len(piece)))
        while done < ready:
            stop = min(done + step, ready)
            start, end = int(lowest[done]), int(highest[stop - 1]) + 1
            if start < first:
                planes, start = np.concatenate([kept, piece[: end - first]]), before
            else:
                planes = piece[start - first : end - first]
            part = rows.rows(done, stop)
            slab = gather(np.asarray(planes, dtype=np.float32), 0, Taps(part.place - start, part.weight))
            for axis in range(1, len(table)):
                slab = gather(slab, axis, table[axis])
            yield done, stop, slab
            done = stop
        if done == len(lowest):
            return
        start = max(int(lowest[done]) - first, 0)
        kept, before = piece[start:].copy(), first + start
