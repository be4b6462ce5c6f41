"""RoIAlign (He et al. 2017, section 3): features of boxes on a fixed grid, bilinear, without rounding.

Averaging a square of bilinear samples is separable, so a box's features are one matrix product a side: of the whole map
("matrix": many operations, all of them on a TPU's matrix unit), or of the window that the box covers, box after box
("window", for CPUs). The third formulation reads the four neighbours of each sample ("gather", for GPUs). They give the
same numbers; benchmarks/detection.py times them. Gradients run through the features only.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Method = Literal["auto", "matrix", "gather", "window"]
# (height, width) in pixels, the cheapest first; a box that fits into none is read from a window of the largest map's
# size. With a pyramid's usual rule most boxes have 14 to 28 pixels a side, and elongated ones up to 40.
WINDOWS = ((16, 16), (32, 32), (24, 48), (48, 24), (64, 64))


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
      method: "matrix", "gather", "window", or "auto": the fastest one for the device.
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
    window: Callable[..., Array] = functools.partial(_by_window, **common)
    methods = {"matrix": matrix, "gather": gather, "window": window}
    if method in methods:
        return methods[method](maps, boxes, levels)
    if method != "auto":
        raise ValueError(f'method should be "auto", "matrix", "gather" or "window", not {method!r}.')
    default = matrix if sampling_ratio == -1 else gather
    return jax.lax.platform_dependent(maps, boxes, levels, cpu=window, tpu=matrix, default=default)


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
    where, weight = _clipped(start, length, size, _most(samples, size, extent), extent)
    return _interpolation(where, weight, extent)


def _most(samples: int, size: int, extent: int) -> int:
    """Returns the number of samples; for adaptive ones the most that a box of the map's size needs, negative."""
    return -math.ceil((extent + 1) / size) if samples < 0 else samples


def _clipped(start: Array, length: Array, size: int, samples: int, extent: Array | int) -> tuple[Array, Array]:
    """Returns sample places moved into the map and their weights, 0 for those more than a pixel outside."""
    where, weight = _positions(start, length, size, samples)
    inside = (where >= -1.0) & (where <= extent)
    return jnp.clip(where, 0.0, jnp.asarray(extent, jnp.float32) - 1.0), jnp.where(inside, weight, 0.0)


def _interpolation(where: Array, weight: Array, extent: int) -> Float[Array, "*N O n"]:
    """Returns the weights of pixels 0..extent-1; a hat of width 1 is linear interpolation between two neighbours."""
    pixels = jnp.arange(extent, dtype=jnp.float32)
    total = jnp.zeros((*where.shape[:-1], extent), jnp.float32)
    for place in range(where.shape[-1]):  # sample by sample: one sum over them all is not vectorised
        hat = jnp.maximum(0.0, 1.0 - jnp.abs(where[..., place, None] - pixels))
        total = total + hat * jnp.broadcast_to(weight, where.shape)[..., place, None]
    return total


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


class _Windows(NamedTuple):
    """Where each of n boxes is read from the stacked maps, and how: windows of one size."""

    image: Int[Array, " n"]
    top: Int[Array, " n"]
    left: Int[Array, " n"]
    rows: Float[Array, "n O h"]
    columns: Float[Array, "n O w"]


def _by_window(maps: list, boxes: Array, levels: Array, *, size: Any, scales: Any, samples: Any, aligned: Any) -> Array:
    """Reads box after box from the smallest kind of window that holds it; the loops run as often as there are such."""
    batch, number = boxes.shape[:2]
    stacked, starts = _stack(maps)
    boxes, levels = boxes.reshape(-1, 4), levels.reshape(-1)
    scale, start = jnp.asarray(scales, jnp.float32)[levels], jnp.asarray(starts)[levels]
    sides = []
    for axis, side in ((1, 1), (2, 0)):  # y, x
        extents = np.array([features.shape[axis] for features in maps], np.int32)
        most = _most(samples, size, int(extents.max()))
        extent = jnp.asarray(extents)[levels][:, None, None]
        sides.append(_clipped(*_axis(boxes, side, scale, aligned), size, most, extent))
    (y, weight_y), (x, weight_x) = sides
    top, left = (jnp.floor(where.min(axis=(1, 2))).astype(jnp.int32) for where in (y, x))
    tall, wide = (jnp.ceil(w.max(axis=(1, 2))).astype(jnp.int32) - low + 1 for w, low in ((y, top), (x, left)))
    whole = max(features.shape[1] for features in maps), stacked.shape[2]
    sizes = [*(kind for kind in WINDOWS if kind[0] < whole[0] and kind[1] < whole[1]), whole]
    kinds = []
    image = jnp.repeat(jnp.arange(batch), number)
    for height, width in sizes:
        first_y = jnp.clip(top + start, 0, stacked.shape[1] - height)
        first_x = jnp.clip(left, 0, stacked.shape[2] - width)
        rows = _interpolation(y + (start - first_y)[:, None, None], weight_y, height)
        columns = _interpolation(x - first_x[:, None, None], weight_x, width)
        kinds.append(_Windows(image, first_y, first_x, rows.astype(stacked.dtype), columns.astype(stacked.dtype)))
    fits = [(tall <= height) & (wide <= width) for height, width in sizes[:-1]]
    kind_of = jnp.argmax(jnp.stack([*fits, jnp.ones_like(tall, bool)]), axis=0)  # the first that fits
    order = jnp.argsort(kind_of)
    ends = jnp.searchsorted(kind_of[order], jnp.arange(len(kinds)), side="right")
    return _read(stacked, order, ends, tuple(kinds)).reshape(batch, number, size, size, -1)


def _stack(maps: list) -> tuple[Float[Array, "B H W C"], Int[np.ndarray, " L"]]:
    """Returns the maps one above the other, filled with zeros on the right, and the first row of each."""
    width = max(features.shape[2] for features in maps)
    filled = [jnp.pad(features, ((0, 0), (0, 0), (0, width - features.shape[2]), (0, 0))) for features in maps]
    starts = np.cumsum([0, *(features.shape[1] for features in maps[:-1])]).astype(np.int32)
    return jnp.concatenate(filled, axis=1), starts


@jax.custom_vjp
def _read(stacked: Array, order: Array, ends: Array, kinds: tuple[_Windows, ...]) -> Float[Array, "n O O C"]:
    """Multiplies each box's window by its weights; boxes order[ends[k - 1]:ends[k]] have windows of kind k."""

    def one(turn: Array, result: Array, windows: _Windows) -> Array:
        box = order[turn]
        size = (1, windows.rows.shape[2], windows.columns.shape[2], stacked.shape[3])
        corner = (windows.image[box], windows.top[box], windows.left[box], 0)
        window = jax.lax.dynamic_slice(stacked, corner, size)[0]
        value = jnp.einsum("ph,hwc,qw->pqc", windows.rows[box], window, windows.columns[box])
        return jax.lax.dynamic_update_slice(result, value[None], (box, 0, 0, 0))

    cells = kinds[0].rows.shape[1]
    return _in_turns(one, jnp.zeros((len(order), cells, cells, stacked.shape[3]), stacked.dtype), ends, kinds)


def _in_turns(one: Callable[..., Array], result: Array, ends: Array, kinds: tuple[_Windows, ...]) -> Array:
    first = jnp.zeros((), ends.dtype)
    for kind, windows in enumerate(kinds):
        result = jax.lax.fori_loop(first, ends[kind], functools.partial(one, windows=windows), result)
        first = ends[kind]
    return result


def _read_forward(stacked: Array, order: Array, ends: Array, kinds: tuple[_Windows, ...]):
    return _read(stacked, order, ends, kinds), (jnp.zeros_like(stacked), order, ends, kinds)


def _read_backward(kept, cotangent: Array):
    """Adds each box's share to its window, in place."""
    nothing, order, ends, kinds = kept

    def one(turn: Array, result: Array, windows: _Windows) -> Array:
        box = order[turn]
        share = jnp.einsum("ph,pqc,qw->hwc", windows.rows[box], cotangent[box], windows.columns[box])
        corner = (windows.image[box], windows.top[box], windows.left[box], 0)
        before = jax.lax.dynamic_slice(result, corner, (1, *share.shape))
        return jax.lax.dynamic_update_slice(result, before + share[None], corner)

    return _in_turns(one, nothing, ends, kinds), None, None, None


_read.defvjp(_read_forward, _read_backward)
