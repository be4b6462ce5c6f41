"""Predict whole cases from the host: one compiled program for cases of any size, sums kept in float32 outside of it."""

from collections.abc import Sequence
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


class _Sums(NamedTuple):
    """Weighted outputs `(*T, K)` and weights `(*T)`, both float32, on the padded grid of the outputs."""

    probs: np.ndarray
    weights: np.ndarray


def predict_array(
    predict_fn: PredictFn,
    image: Float[np.ndarray, "*S C"],
    *,
    ndim: int,
    window: Sequence[int] | None,
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    placement: Placement = "even",
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    flip_pairs: Sequence[tuple[int, int]] = (),
    divisor: int | Sequence[int] = 1,
    factors: Sequence[int] | None = None,
) -> Float[np.ndarray, "*T K"]:
    """Returns the probabilities of a whole case, the same as `sliding_window` gives, with the loop on the host.

    `predict_fn` always sees `(batch_size, *window, C)` (the last batch is filled with zeros), so a jitted one compiles
    once for all cases. Hand in one and the same jitted function, or a `partial` of it over the parameters:
    `partial(jax.jit(task.predict), variables)`. The host holds the image, `(*S, K)` and `(*S)` in float32, and while
    it adds one batch up the device works on the next. Outputs are averaged whatever they mean: probabilities, logits or
    intensities.

    Args:
      predict_fn: `(B, *window, C) -> (B, *window, K)`, jitted.
      image: one preprocessed case; float32 (another type is converted window by window).
      ndim: spatial axes that the predictor sees. A 3D image with `ndim=2` is taken slice by slice along its first axis.
      window: voxels along each of the `ndim` axes; shorter images are padded with zeros and cropped back. None
        takes the whole image, padded to the next multiple of `divisor`: one compilation for each padded shape.
      overlap: fraction of a window shared with its neighbour, in [0, 1).
      weight: "gaussian", "constant" or "nnunet", see `sliding_window`.
      placement: "even" or "border", see `window_starts`.
      batch_size: windows in one call.
      flip_axes: axes among the `ndim` for `flip_tta`; `predict_fn` itself is called once a flip, and stays one program.
      flip_pairs: output channels that a flip of the last axis exchanges.
      divisor: for `window=None`, one number or one an axis (`models.divisor`).
      factors: along each of the `ndim` axes, how many times longer than its window an output is; None: as long. The
        outputs of overlapping windows are then blended by the weights of the longer window.

    Raises:
      ValueError: the image has no axes for `ndim`, or an option is out of its range.

    Source: Isensee et al., nnU-Net, Nature Methods 2021, inference.
    """
    leading = image.ndim - 1 - ndim
    if leading not in (0, 1) or 0 in image.shape:
        raise ValueError(f"A predictor of {ndim} axes needs an image (*S, C) that is not empty, got {image.shape}.")
    sizes = image.shape[:-1]
    if window is None:
        window, weight = whole_window(sizes[leading:], divisor), "constant"
    window = tuple(int(length) for length in window)
    if len(window) != ndim:
        raise ValueError(f"The window should have {ndim} axes, got {window}.")
    factors = (1,) * ndim if factors is None else tuple(int(factor) for factor in factors)
    if len(factors) != ndim or min(factors) < 1:
        raise ValueError(f"factors should be {ndim} whole numbers, at least 1 each, got {factors}.")
    # A slice of a volume is a window of thickness one.
    thick_window = (1,) * leading + window
    pads = pad_widths(sizes, thick_window)
    if any(map(any, pads)):
        image = np.pad(image, (*pads, (0, 0)))
    starts = [
        window_starts(size, length, overlap=overlap, placement=placement)
        for size, length in zip(image.shape[:-1], thick_window)
    ]
    # Spatial axes are counted over what the predictor sees.
    predict_fn = flip_tta(predict_fn, axes=flip_axes, pairs=flip_pairs)
    weights = np.asarray(importance([length * factor for length, factor in zip(window, factors)], weight))
    sums = _sum_windows(predict_fn, image, weights, window_table(starts, batch_size), window, factors)
    np.divide(sums.probs, sums.weights[..., None], out=sums.probs)
    crop = tuple(
        slice(before * factor, (before + size) * factor)
        for (before, _), size, factor in zip(pads, sizes, (1,) * leading + factors)
    )
    return np.ascontiguousarray(sums.probs[crop])


def whole_window(sizes: Sequence[int], divisor: int | Sequence[int] = 1) -> tuple[int, ...]:
    """Returns the smallest multiples of `divisor` (one number, or one an axis) that hold an image of these sizes.

    Raises:
      ValueError: a divisor below one, or not as many as axes.
    """
    divisors = (divisor,) * len(sizes) if isinstance(divisor, int) else tuple(divisor)
    if len(divisors) != len(sizes) or min(divisors) < 1:
        raise ValueError(f"divisor should be positive, one number or {len(sizes)}, got {divisor}.")
    return tuple(-(-size // each) * each for size, each in zip(sizes, divisors))


def _sum_windows(
    predict_fn: PredictFn,
    image: np.ndarray,
    weights: np.ndarray,
    table: tuple,
    window: tuple[int, ...],
    factors: tuple[int, ...],
) -> _Sums:
    """Runs all windows, one batch ahead of the sums; `weights` are those of an output, `factors` times the window."""
    thick_factors = np.array((1,) * (image.ndim - 1 - len(window)) + factors)

    def start(corners: np.ndarray, valid: np.ndarray) -> tuple[list[tuple], Any]:
        corners_used = corners[valid > 0]
        batch = np.zeros((len(corners), *window, image.shape[-1]), np.float32)
        for index, corner in enumerate(corners_used):
            batch[index] = image[_region(corner, window)]
        probs = predict_fn(jnp.asarray(batch))
        check_probabilities(probs.shape, batch.shape, factors)
        return [_region(corner * thick_factors, weights.shape) for corner in corners_used], probs

    entries = zip(*table)
    waiting = start(*next(entries))
    shape = tuple(int(size) for size in np.array(image.shape[:-1]) * thick_factors)
    sums = _Sums(np.zeros((*shape, waiting[1].shape[-1]), np.float32), np.zeros(shape, np.float32))
    for corners, valid in entries:
        following = start(corners, valid)
        _add(sums, *waiting, weights)
        waiting = following
    _add(sums, *waiting, weights)
    return sums


def _region(corner: np.ndarray, window: tuple[int, ...]) -> tuple:
    """The index of one window in a case; leading axes beyond the window are plain numbers."""
    leading = len(corner) - len(window)
    places = [int(place) for place in corner]
    return (*places[:leading], *(slice(place, place + length) for place, length in zip(places[leading:], window)))


def _add(sums: _Sums, regions: list[tuple], probs, weights: np.ndarray) -> None:
    """Adds the windows of one batch to the sums, in place; asking for `probs` waits for the device."""
    for region, window_probs in zip(regions, np.asarray(probs)):
        sums.probs[region] += window_probs.astype(np.float32, copy=False) * weights[..., None]
        sums.weights[region] += weights
