"""The outputs of a case plane by plane: windows along the first axis, and sums of only those planes they touch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxseg.predict.sliding_window import (
    Placement,
    Weight,
    check_probabilities,
    importance,
    pad_widths,
    window_starts,
    window_table,
)
from jaxseg.predict.tta import flip_tta
from jaxseg.typing import PredictFn

ADDED_BYTES = 2**20  # planes of a window that are weighted together: what fits a cache is added fastest


class Layout(NamedTuple):
    """Where the windows of a case lie.

    Attributes:
      leading: 1 where a volume is taken slice by slice, else 0.
      window: voxels along each axis of the case; a slice of a volume is a window of thickness one.
      pads: zeros before and after each axis.
      starts: for each axis where windows begin, on the padded grid.
      weight: how much each voxel of a window counts, see `sliding_window.importance`.
    """

    leading: int
    window: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    starts: tuple[tuple[int, ...], ...]
    weight: Weight


class _Sums(NamedTuple):
    """Weighted outputs `(planes, *T[1:], K)` and weights `(planes, *T[1:])`, float32, of planes from `first` on.

    `box` is what is summed of the padded grid of the outputs, `(first, last + 1)` an axis.
    """

    first: int
    box: tuple[tuple[int, int], ...]
    probs: np.ndarray
    weights: np.ndarray


def whole_window(sizes: Sequence[int], divisor: int | Sequence[int] = 1) -> tuple[int, ...]:
    """Returns the smallest multiples of `divisor` (one number, or one an axis) that hold an image of these sizes.

    Raises:
      ValueError: a divisor below one, or not as many as axes.
    """
    divisors = (divisor,) * len(sizes) if isinstance(divisor, int) else tuple(divisor)
    if len(divisors) != len(sizes) or min(divisors) < 1:
        raise ValueError(f"divisor should be positive, one number or {len(sizes)}, got {divisor}.")
    return tuple(-(-size // each) * each for size, each in zip(sizes, divisors))


def layout(
    sizes: Sequence[int],
    *,
    ndim: int,
    window: Sequence[int] | None,
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    placement: Placement = "even",
    divisor: int | Sequence[int] = 1,
) -> Layout:
    """Returns where the windows lie in a case of these sizes; for the options see `predict_array`.

    Raises:
      ValueError: the image has no axes for `ndim`, or an option is out of its range.
    """
    leading = len(sizes) - ndim
    if leading not in (0, 1) or 0 in sizes:
        raise ValueError(f"A predictor of {ndim} axes needs an image (*S, C) that is not empty, got {tuple(sizes)}.")
    if window is None:
        window, weight = whole_window(sizes[leading:], divisor), "constant"
    window = tuple(int(length) for length in window)
    if len(window) != ndim:
        raise ValueError(f"The window should have {ndim} axes, got {window}.")
    window = (1,) * leading + window
    pads = pad_widths(sizes, window)
    starts = tuple(
        window_starts(size + sum(pad), length, overlap=overlap, placement=placement)
        for size, pad, length in zip(sizes, pads, window)
    )
    return Layout(leading, window, pads, starts, weight)


def predict_planes(
    predict_fn: PredictFn,
    image: Float[np.ndarray, "*S C"],
    place: Layout,
    *,
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    flip_pairs: Sequence[tuple[int, int]] = (),
    factors: Sequence[int] | None = None,
    rows: tuple[int, int] | None = None,
    planes: int = 1,
) -> Iterator[tuple[int, Float[np.ndarray, "n *T K"]]]:
    """Yields the outputs of a case in pieces of its first axis, each as soon as no further window touches it.

    Memory is the image and the sums of as many planes as a window has along the first axis. Windows are summed in the
    same order however many planes and rows are held, so that the values are the same.

    Args:
      predict_fn: see `predict_array`.
      image: one preprocessed case.
      place: the layout of its windows.
      batch_size, flip_axes, flip_pairs, factors: see `predict_array`.
      rows: first and last + 1 of the outputs' rows along the second axis that are wanted; only windows that touch them
        are predicted. None: all.
      planes: sums are held of so many planes of the outputs, or as many as a window has if these are more.

    Yields:
      `(first plane, (n, rows, *T[2:], K))`, float32, in order and without gaps. The memory is used again once the next
      piece is asked for.

    Raises:
      ValueError: an option is out of its range, or the predictor gives another shape.
    """
    ndim = len(place.window) - place.leading
    factors = (1,) * ndim if factors is None else tuple(int(factor) for factor in factors)
    if len(factors) != ndim or min(factors) < 1:
        raise ValueError(f"factors should be {ndim} whole numbers, at least 1 each, got {factors}.")
    thick = (1,) * place.leading + factors
    box = [
        (before * factor, (before + size) * factor)
        for (before, _), size, factor in zip(place.pads, image.shape[:-1], thick)
    ]
    starts = list(place.starts)
    if rows is not None:
        low, high = box[1] = (box[1][0] + rows[0], box[1][0] + rows[1])
        starts[1] = tuple(
            start for start in starts[1] if start * thick[1] < high and (start + place.window[1]) * thick[1] > low
        )
    if any(map(any, place.pads)):
        image = np.pad(image, (*place.pads, (0, 0)))
    seen = [length * factor for length, factor in zip(place.window[place.leading :], factors)]
    weights = np.asarray(importance(seen, place.weight)).reshape((1,) * place.leading + tuple(seen))
    # Spatial axes of flips are counted over what the predictor sees.
    run = _runner(flip_tta(predict_fn, axes=flip_axes, pairs=flip_pairs), image, place, factors)
    depth = min(max(planes, weights.shape[0]), box[0][1] - box[0][0])
    sums: _Sums | None = None
    for corners, outputs in _ahead(run, *window_table(starts, batch_size)):
        if sums is None:
            sums = _empty(tuple(box), depth, outputs.shape[-1])
        for corner, output in zip(corners * np.array(thick), np.asarray(outputs)):
            place_first = max(int(corner[0]), box[0][0])
            if min(int(corner[0]) + weights.shape[0], box[0][1]) > sums.first + depth:
                # This window and all later ones begin here: what lies before has met its last one.
                yield sums.first - box[0][0], _blended(sums, place_first)
                sums = _moved(sums, place_first)
            _add(sums, corner, output.reshape(*weights.shape, -1), weights)
    assert sums is not None  # there is one window at least
    yield sums.first - box[0][0], _blended(sums, box[0][1])


def _runner(predict_fn: PredictFn, image: np.ndarray, place: Layout, factors: tuple[int, ...]) -> Callable:
    """Returns `(corners, valid) -> outputs` of one batch of windows; rows that are not valid are zeros."""
    window = place.window[place.leading :]

    def run(corners: np.ndarray, valid: np.ndarray) -> Any:
        batch = np.zeros((len(corners), *window, image.shape[-1]), np.float32)
        for index, corner in enumerate(corners[valid > 0]):
            region = tuple(slice(start, start + length) for start, length in zip(corner.tolist(), place.window))
            batch[index] = image[region].reshape(batch.shape[1:])
        outputs = predict_fn(jnp.asarray(batch))
        check_probabilities(outputs.shape, batch.shape, factors)
        return outputs

    return run


def _ahead(run: Callable, corners: np.ndarray, valid: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields the valid corners and the outputs of each batch; the device works on the next one meanwhile."""
    waiting = corners[0][valid[0] > 0], run(corners[0], valid[0])
    for batch, used in zip(corners[1:], valid[1:]):
        following = batch[used > 0], run(batch, used)
        yield waiting
        waiting = following
    yield waiting


def _empty(box: tuple[tuple[int, int], ...], depth: int, channels: int) -> _Sums:
    """Sums of nothing yet, from the first plane on."""
    shape = (depth, *(stop - start for start, stop in box[1:]))
    return _Sums(box[0][0], box, np.zeros((*shape, channels), np.float32), np.zeros(shape, np.float32))


def _add(sums: _Sums, corner: np.ndarray, output: np.ndarray, weights: np.ndarray) -> None:
    """Adds one window to the sums, in place, as far as it lies within their box; some planes at a time."""
    starts = [max(int(begin), low) for begin, (low, _) in zip(corner, sums.box)]
    stops = [min(int(begin) + n, high) for begin, n, (_, high) in zip(corner, weights.shape, sums.box)]
    within = tuple(slice(a - int(begin), b - int(begin)) for a, b, begin in zip(starts, stops, corner))
    origin = (sums.first, *(low for low, _ in sums.box[1:]))
    target = tuple(slice(a - zero, b - zero) for a, b, zero in zip(starts, stops, origin))
    output, weights = output[within], weights[within]
    total, total_weights = sums.probs[target], sums.weights[target]  # views
    step = max(1, ADDED_BYTES // max(4 * output[0].size, 1))
    for first in range(0, len(output), step):
        part = slice(first, first + step)
        total[part] += output[part].astype(np.float32, copy=False) * weights[part][..., None]
        total_weights[part] += weights[part]


def _blended(sums: _Sums, stop: int) -> np.ndarray:
    """Divides the planes before `stop` by their weights, in place, and returns them."""
    done = slice(0, stop - sums.first)
    return np.divide(sums.probs[done], sums.weights[done][..., None], out=sums.probs[done])


def _moved(sums: _Sums, first: int) -> _Sums:
    """Makes room for planes behind: those from `first` on move to the front, in the same memory."""
    step = first - sums.first
    for array in (sums.probs, sums.weights):
        for plane in range(len(array) - step):  # one at a time: NumPy would copy overlapping slices first
            array[plane] = array[plane + step]
        array[len(array) - step :] = 0
    return sums._replace(first=first)
