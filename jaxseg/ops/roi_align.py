"""RoIAlign (He et al. 2017, section 3): features of boxes on a fixed grid, bilinear, without rounding.

Averaging a square of bilinear samples is separable, so a box's features are one matrix product a side ("matrix"); the
other formulation reads the four neighbours of each sample ("gather"). Gradients run through the features only.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Method = Literal["auto", "matrix", "gather"]


def roi_align(
    features: Float[Array | np.ndarray, "B H W C"],
    boxes: Float[Array | np.ndarray, "B N 4"],
    *,
    output_size: int,
    scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
    method: Method = "auto",
) -> Float[Array, "B N O O C"]:
    """Returns the features of every box on a grid of `output_size` squared.

    Args:
      features: one map.
      boxes: xyxy in pixels of the image.
      output_size: cells a side.
      scale: pixels of the map to one of the image: 1 / stride.
      sampling_ratio: samples a cell and side; -1: as many as the cell has pixels, which boxes of at most the map's own
        size can have.
      aligned: pixel centres lie at half coordinates; without it (torchvision's Mask R-CNN) at whole ones, and a box has
        at least one pixel.
      method: "matrix", "gather", or the faster one for the device.
    """
    level = jnp.zeros(boxes.shape[:-1], jnp.int32)
    return pyramid_roi_align(
        [features],
        boxes,
        level,
        output_size=output_size,
        scales=[scale],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        method=method,
    )


def pyramid_roi_align(
    pyramid: Sequence[Float[Array | np.ndarray, "B _ _ C"]],
    boxes: Float[Array | np.ndarray, "B N 4"],
    levels: Int[Array | np.ndarray, "B N"],
    *,
    output_size: int,
    scales: Sequence[float],
    sampling_ratio: int = 2,
    aligned: bool = True,
    method: Method = "auto",
) -> Float[Array, "B N O O C"]:
    """`roi_align` of each box on the map of its own level (an index into `pyramid`); `scales` has one entry a map.

    Raises:
      ValueError: a sampling ratio of 0, an unknown method, or not one scale a map.
    """
    if sampling_ratio == 0 or sampling_ratio < -1:
        raise ValueError(f"sampling_ratio should be 1 or more, or -1 (adaptive); it is {sampling_ratio}.")
    if len(scales) != len(pyramid):
        raise ValueError(f"There should be one scale a map, {len(pyramid)}; got {len(scales)}.")
    maps = [jnp.asarray(features) for features in pyramid]
    boxes, levels = jax.lax.stop_gradient(jnp.asarray(boxes)), jnp.asarray(levels)
    common: dict[str, Any] = {
        "size": output_size,
        "scales": tuple(scales),
        "samples": sampling_ratio,
        "aligned": aligned,
    }
    matrix: Callable[..., Array] = functools.partial(_by_matrix, **common)
    gather: Callable[..., Array] = functools.partial(_by_gather, **common)
    if method == "matrix" or (method == "auto" and sampling_ratio == -1):
        return matrix(maps, boxes, levels)
    if method == "gather":
        return gather(maps, boxes, levels)
    if method != "auto":
        raise ValueError(f'method should be "auto", "matrix" or "gather", not {method!r}.')
    return jax.lax.platform_dependent(maps, boxes, levels, cpu=matrix, tpu=matrix, default=gather)


def roi_axis_weights(
    boxes: Float[Array | np.ndarray, "*N 4"],
    *,
    axis: Literal["y", "x"],
    output_size: int,
    extent: int,
    sampling_ratio: int = -1,
    aligned: bool = True,
) -> Float[Array, "*N O n"]:
    """Returns how much each of the `extent` pixels along one axis counts in each cell of a box: RoIAlign, half of it.

    With the weights of both axes, rows and columns, `rows @ mask @ columns.T` is RoIAlign of one map: for crops in
    which every box has its own map, such as the mask of its object.
    """
    start, length = _axis(jnp.asarray(boxes), 1 if axis == "y" else 0, 1.0, aligned)
    return _weights(start, length, output_size, sampling_ratio, extent)


def _axis(boxes: Array, side: int, scale, aligned: bool) -> tuple[Array, Array]:
    """Returns (start, length) of each box along x (side 0) or y (side 1), in pixels of the map."""
    low, high = boxes[..., side] * scale, boxes[..., side + 2] * scale
    return (low - 0.5, high - low) if aligned else (low, jnp.maximum(high - low, 1.0))


def _positions(start: Array, length: Array, size: int, samples: int) -> tuple[Array, Array]:
    """Returns sample places `(*N, size, S)` and their weights, which sum to 1 over S.

    With adaptive sampling the number of samples differs from box to box; S is the most that `samples`, then a negative
    number, allows, and surplus ones weigh nothing.
    """
    cell = (length / size)[..., None, None]
    place = jnp.arange(abs(samples), dtype=jnp.float32)
    count = jnp.maximum(jnp.ceil(cell), 1.0) if samples < 0 else jnp.full_like(cell, samples)
    row = jnp.arange(size, dtype=jnp.float32)[:, None]
    where = start[..., None, None] + cell * (row + (place + 0.5) / count)
    return where, jnp.where(place < count, 1.0 / count, 0.0)


def _weights(start: Array, length: Array, size: int, samples: int, extent: int) -> Float[Array, "*N O n"]:
    """Returns how much each pixel of one axis of the map counts in each cell; `samples` is -1 for adaptive sampling."""
    samples = -math.ceil((extent + 1) / size) if samples < 0 else samples  # the most that a box of the map's size needs
    where, weight = _positions(start, length, size, samples)
    inside = (where >= -1.0) & (where <= extent)
    where = jnp.clip(where, 0.0, extent - 1.0)
    # A hat of width 1 is linear interpolation between the two neighbours.
    hat = jnp.maximum(0.0, 1.0 - jnp.abs(where[..., None] - jnp.arange(extent, dtype=jnp.float32)))
    return (hat * jnp.where(inside, weight, 0.0)[..., None]).sum(axis=-2)


def _by_matrix(maps: list, boxes: Array, levels: Array, *, size: Any, scales: Any, samples: Any, aligned: Any) -> Array:
    total = jnp.zeros((), maps[0].dtype)
    for place, (features, scale) in enumerate(zip(maps, scales)):
        height, width = features.shape[1:3]
        rows = _weights(*_axis(boxes, 1, scale, aligned), size, samples, height)
        columns = _weights(*_axis(boxes, 0, scale, aligned), size, samples, width)
        if len(maps) > 1:
            rows = jnp.where((levels == place)[..., None, None], rows, 0.0)
        kind = features.dtype
        along_x = jnp.einsum("bhwc,bnpw->bnphc", features, columns.astype(kind))
        total = total + jnp.einsum("bnphc,bnoh->bnopc", along_x, rows.astype(kind))
    return total


def _by_gather(maps: list, boxes: Array, levels: Array, *, size: Any, scales: Any, samples: Any, aligned: Any) -> Array:
    """Reads from the maps laid one after the other, so that each box is sampled once, whatever its level."""
    if samples < 0:
        raise ValueError("Adaptive sampling has a matrix formulation only; use method='matrix'.")
    batch, channels = maps[0].shape[0], maps[0].shape[-1]
    flat = jnp.concatenate([features.reshape(batch, -1, channels) for features in maps], axis=1)
    sizes = np.array([features.shape[1:3] for features in maps], np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))[:-1]]).astype(np.int32)
    height, width = jnp.asarray(sizes[:, 0])[levels], jnp.asarray(sizes[:, 1])[levels]
    scale = jnp.asarray(scales, jnp.float32)[levels]
    low_y, high_y, share_y = _corners(*_axis(boxes, 1, scale, aligned), size, samples, height)
    low_x, high_x, share_x = _corners(*_axis(boxes, 0, scale, aligned), size, samples, width)
    start = jnp.asarray(offsets)[levels][..., None, None]
    total = jnp.zeros((), flat.dtype)
    for y, weight_y in ((low_y, share_y[0]), (high_y, share_y[1])):
        for x, weight_x in ((low_x, share_x[0]), (high_x, share_x[1])):
            index = start + y[..., :, None] * width[..., None, None] + x[..., None, :]  # (B, N, oS, oS)
            values = jax.vmap(lambda rows, at: rows[at])(flat, index)
            total = total + values * (weight_y[..., :, None] * weight_x[..., None, :])[..., None].astype(flat.dtype)
    shape = (*total.shape[:2], size, samples, size, samples, channels)
    return total.reshape(shape).mean(axis=(3, 5))


def _corners(start: Array, length: Array, size: int, samples: int, extent: Array):
    """Returns the two neighbours of each sample along one axis, `(*N, size * S)`, and the share of each."""
    where, _ = _positions(start, length, size, samples)
    where = where.reshape(*where.shape[:-2], -1)
    last = (extent - 1)[..., None]
    inside = (where >= -1.0) & (where <= extent[..., None])
    where = jnp.clip(where, 0.0, last.astype(jnp.float32))
    low = jnp.floor(where).astype(jnp.int32)
    upper = where - low
    return low, jnp.minimum(low + 1, last), (jnp.where(inside, 1 - upper, 0.0), jnp.where(inside, upper, 0.0))
