"""Predict an image of any size through windows of one size: a wrapper on `PredictFn`, and the geometry it stands on."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxseg.ops.windows import gaussian_window, nnunet_window
from jaxseg.typing import PredictFn

Placement = Literal["even", "border"]
Weight = Literal["gaussian", "constant", "nnunet"]
UNROLLED = 8  # window batches; above it a scan keeps the program small (XLA's CPU backend is slow inside a scan)


def window_starts(size: int, window: int, *, overlap: float = 0.5, placement: Placement = "even") -> tuple[int, ...]:
    """Returns where the windows begin along one axis of `size >= window` voxels; together they cover it.

    Args:
      overlap: fraction of a window that the next one shares, in [0, 1).
      placement: "even" spreads `ceil((size - window) / (window (1 - overlap))) + 1` windows over the axis (nnU-Net);
        "border" steps by `int(window (1 - overlap))` and pushes the last window back to the edge (MONAI).

    Raises:
      ValueError: an argument is out of its range, or the window is longer than the axis.
    """
    if not 1 <= window <= size:
        raise ValueError(f"A window along an axis of {size} voxels should have 1 to {size}, got {window}.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap should be a fraction in [0, 1), got {overlap}.")
    if placement not in ("even", "border"):
        raise ValueError(f'placement should be "even" or "border", got {placement!r}.')
    step = max(window * (1 - overlap), 1)
    # The small number keeps 0.1 + 0.2 from asking for one window more.
    if placement == "even":
        count = math.ceil((size - window) / step - 1e-6) + 1
        apart = (size - window) / max(count - 1, 1)  # before it is multiplied: ties then round as nnU-Net's do
        return tuple(round(apart * index) for index in range(count))
    step = int(step + 1e-6)
    count = math.ceil((size - window) / step) + 1
    return tuple(min(index * step, size - window) for index in range(count))


def pad_widths(sizes: Sequence[int], window: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Returns the zeros before and after each axis that make it at least as long as the window: half and half."""
    missing = (max(length - size, 0) for size, length in zip(sizes, window))
    return tuple((count // 2, count - count // 2) for count in missing)


def importance(window: Sequence[int], weight: Weight) -> Float[Array, "*S"]:
    """Returns how much each voxel of a window counts: `ops.gaussian_window`, `ops.nnunet_window`, or ones.

    Raises:
      ValueError: another `weight`, or an axis without voxels.
    """
    if min(window, default=0) < 1:
        raise ValueError(f"A window should have 1 voxel or more along each axis, got {tuple(window)}.")
    if weight == "gaussian":
        return gaussian_window(tuple(window))
    if weight == "constant":
        return jnp.ones(tuple(window), jnp.float32)
    if weight == "nnunet":
        return nnunet_window(tuple(window))
    raise ValueError(f'weight should be "gaussian", "constant" or "nnunet", got {weight!r}.')


def window_table(starts: Sequence[Sequence[int]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns all windows: corners `(batches, batch_size, n)` int32, and `(batches, batch_size)` ones, 0 for fill.

    Args:
      starts: for each axis the places where windows begin.
      batch_size: the last batch is filled with repetitions that count nothing.

    Raises:
      ValueError: `batch_size` is below one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size should be at least 1, got {batch_size}.")
    corners = np.array(list(itertools.product(*starts)), np.int32)
    count = len(corners)
    fill = -count % batch_size
    corners = np.concatenate([corners, np.repeat(corners[-1:], fill, axis=0)])
    valid = (np.arange(count + fill) < count).astype(np.float32)
    return corners.reshape(-1, batch_size, len(starts)), valid.reshape(-1, batch_size)


def check_probabilities(shape: Sequence[int], batch: Sequence[int], factors: Sequence[int] | None = None) -> int:
    """Returns K of `(B, *S, K)` after checking that a predictor kept `(B, *S)` of its image `(B, *S, C)`.

    With `factors` it should make each spatial axis so many times longer.

    Raises:
      ValueError: the shapes disagree.
    """
    factors = (1,) * (len(batch) - 2) if factors is None else tuple(factors)
    grid = (batch[0], *(size * factor for size, factor in zip(batch[1:-1], factors, strict=True)))
    if len(shape) != len(batch) or tuple(shape[:-1]) != grid:
        expected = ", ".join(map(str, grid))
        raise ValueError(f"The predictor should map {tuple(batch)} to ({expected}, K), but gave {tuple(shape)}.")
    return shape[-1]


def sliding_window(
    predict_fn: PredictFn,
    *,
    window: Sequence[int],
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    placement: Placement = "even",
    batch_size: int = 1,
) -> PredictFn:
    """Returns a predictor of whole images that looks through windows and blends what it sees.

    It is pure and jit-able, and as static as its image: one program for each image shape. Up to eight window batches
    are unrolled, more go through `lax.scan`. For whole cases of many sizes, and on CPU, `predict_array` is better.

    Args:
      predict_fn: `(B, *window, C) -> (B, *window, K)`.
      window: voxels along each spatial axis. A shorter image is padded with zeros on both sides and cropped back.
      overlap: fraction of a window shared with its neighbour, in [0, 1).
      weight: "gaussian" (sigma = window / 8, floor 1e-3), "constant", or "nnunet" (`ops.nnunet_window`).
      placement: "even" (nnU-Net) or "border" (MONAI), see `window_starts`.
      batch_size: windows in one call of `predict_fn`; windows of all images of the batch are mixed.

    Returns:
      `(B, *S, C) -> (B, *S, K)` float32.

    Raises:
      ValueError: an option is out of its range; when called, the image has other axes than the window.

    Source: Isensee et al., nnU-Net, Nature Methods 2021 (gaussian blend); MONAI `sliding_window_inference` ("border").
    """
    window = tuple(int(length) for length in window)
    weights = importance(window, weight)
    traced_once = jax.jit(predict_fn)

    def predict(image: Float[Array | np.ndarray, "B *S C"]) -> Float[Array, "B *S K"]:
        if image.ndim != len(window) + 2:
            raise ValueError(f"A window of {len(window)} axes needs an image (B, *S, C), got {image.shape}.")
        sizes = image.shape[1:-1]
        pads = pad_widths(sizes, window)
        image = jnp.pad(image, ((0, 0), *pads, (0, 0)))
        starts = [
            window_starts(size, length, overlap=overlap, placement=placement)
            for size, length in zip(image.shape[1:-1], window)
        ]
        table = window_table([range(image.shape[0]), *starts], batch_size)
        total = _blend(traced_once, image, weights, table)
        crop = tuple(slice(before, before + size) for (before, _), size in zip(pads, sizes))
        total = total[:, *crop]
        return total[..., :-1] / total[..., -1:]

    return predict


def add_window(
    total: Float[Array, "*T L"], output: Float[Array, "*W K"], weight: Float[Array, "*W"], corner: Sequence
) -> Float[Array, "*T L"]:
    """Returns the sums with one window more: its weighted outputs, and its weights in the last of L = K + 1 channels.

    Args:
      total: may have further axes before those of the window, along which the window is one thick.
      output: what was predicted for the window.
      weight: how much each of its voxels counts.
      corner: where it begins along each axis of `total`.
    """
    weight = weight[..., None]
    blended = jnp.concatenate([output * weight, weight], axis=-1)
    blended = blended.reshape((1,) * (total.ndim - blended.ndim) + blended.shape)
    return lax.dynamic_update_slice(total, lax.dynamic_slice(total, corner, blended.shape) + blended, corner)


def _blend(
    predict_fn: PredictFn, image: Float[Array, "B *S C"], weights: Float[Array, "*W"], table: tuple
) -> Float[Array, "B *S L"]:
    """Sums weighted probabilities over the windows of `table`; the last of L = K + 1 channels sums the weights."""
    window, channels = weights.shape, image.shape[-1]
    batch = (table[0].shape[1], *window, channels)
    outcome = jax.eval_shape(predict_fn, jax.ShapeDtypeStruct(batch, image.dtype))
    num_classes = check_probabilities(outcome.shape, batch)

    def add(total, entry):
        corners, valid = entry
        corners = [(*corner, 0) for corner in corners]
        crops = [lax.dynamic_slice(image, corner, (1, *window, channels))[0] for corner in corners]
        probs = predict_fn(jnp.stack(crops)).astype(jnp.float32)
        for index, corner in enumerate(corners):
            total = add_window(total, probs[index], weights * valid[index], corner)
        return total, None

    total = jnp.zeros((*image.shape[:-1], num_classes + 1), jnp.float32)
    if len(table[0]) > UNROLLED:
        return lax.scan(add, total, table)[0]
    for entry in zip(*table):
        total, _ = add(total, entry)
    return total
