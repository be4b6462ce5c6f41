"""The way from an image to its label map as three pure functions of static shapes, which `--mode export` writes out.

`prepare` normalises and resamples into a bucket, `look` adds what the network says of some windows to the sums, and
`finish` brings these back to the image's grid. An image fills a bucket from the first voxel on; how much of it, is told
by whole numbers at run time. So one program serves all images that fit, on any device.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Integer

from jaxseg import ops
from jaxseg.data.preprocess import TINY, Settings
from jaxseg.data.writers import label_dtype
from jaxseg.ops.spline import resample_matrix
from jaxseg.predict import postprocess
from jaxseg.predict.sliding_window import Weight, add_window, importance
from jaxseg.predict.tta import exchange
from jaxseg.typing import PredictFn

SLAB_VALUES = 2**24  # of outputs that `finish` has on the image's grid at a time; 64 MiB of float32
Sizes = Int[Array | np.ndarray, " axes"]


class Bucket(NamedTuple):
    """Room for images: `image` along the axes of the cropped image, `grid` along those that the network sees."""

    image: tuple[int, ...]
    grid: tuple[int, ...]


class Programs(NamedTuple):
    """The three functions of a bucket, and an example of the arguments of each.

    Attributes:
      prepare: `(image (*R, C), facts) -> (*T, C)`; facts `(4, axes)` are the sizes of the image and of the resampled
        image, and the orders of the splines there (3) and back (1), 0 for an axis of thick slices.
      look: `(variables, image (*T, C), sums (*T, K + 1), corners (B, axes), count, flips) -> sums`: the first `count`
        windows, which begin at `corners`, mirrored along the axes where `flips` says so.
      finish: `(sums, facts, start) -> (slab, *R[1:])` labels, in the users' own values, from row `start` on.
      arguments: shapes and types of what the functions take, by name.
      slab: rows that `finish` gives.
    """

    prepare: Callable[..., Array]
    look: Callable[..., Array]
    finish: Callable[..., Array]
    arguments: dict[str, tuple]
    slab: int


class Rules(NamedTuple):
    """What the programs of a run have in common.

    Attributes:
      settings: of the preprocessing.
      channels: of an image.
      outputs: K of the network.
      label_values: the users' value of each class.
      regions: class ids of each sigmoid output; None for softmax.
      logits: the network gives logits, not probabilities.
      window: along the axes that the network sees (one fewer than those of the image: slice by slice).
      weight: of a window's middle over its rim.
      batch_size: windows that the network sees at a time.
      flip_axes: of the window, which are averaged over.
      flip_pairs: outputs that a flip of the last axis exchanges.
    """

    settings: Settings
    channels: int
    outputs: int
    label_values: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] | None
    logits: bool
    window: tuple[int, ...]
    weight: Weight
    batch_size: int
    flip_axes: tuple[int, ...]
    flip_pairs: tuple[tuple[int, int], ...]


def programs(predict_fn: Callable[[Any, Array], Array], variables: Any, rules: Rules, bucket: Bucket) -> Programs:
    """Returns the programs of one bucket.

    Args:
      predict_fn: `(variables, (B, *window, C)) -> (B, *window, K)`.
      variables: arrays, or their shapes.
      rules: see Rules.
      bucket: at least as long as the window along each axis of its grid; as long for image and grid where an axis is
        not resampled.

    Raises:
      ValueError: the bucket has other axes than the window, or is too short.
    """
    thick = (1,) * (len(bucket.grid) - len(rules.window)) + rules.window
    if len(thick) != len(bucket.grid) or any(size < length for size, length in zip(bucket.grid, thick)):
        raise ValueError(f"A bucket should hold the window {rules.window}, got {bucket.grid}.")
    row = int(np.prod(bucket.image[1:])) * rules.outputs
    slab = max(1, min(bucket.image[0], SLAB_VALUES // row))
    spec, axes = jax.ShapeDtypeStruct, len(bucket.grid)
    facts, number = spec((4, axes), jnp.int32), spec((), jnp.int32)
    image, grid = spec((*bucket.image, rules.channels), jnp.float32), spec((*bucket.grid, rules.channels), jnp.float32)
    sums = spec((*bucket.grid, rules.outputs + 1), jnp.float32)
    windows = spec((rules.batch_size, axes), jnp.int32), number, spec((len(rules.flip_axes),), jnp.bool_)
    return Programs(
        functools.partial(_prepare, rules=rules, bucket=bucket, thick=thick),
        functools.partial(_look, predict_fn=predict_fn, rules=rules, thick=thick),
        functools.partial(_finish, rules=rules, bucket=bucket, thick=thick, slab=slab),
        {
            "prepare": (image, facts),
            "look": (variables, grid, sums, *windows),
            "finish": (sums, facts, number),
        },
        slab,
    )


def _kept(settings: Settings, axes: int) -> tuple[bool, ...]:
    """Which axes no image is ever resampled along."""
    return (True,) * axes if settings.spacing is None else tuple(length is None for length in settings.spacing)


def _within(shape: Sequence[int], size: Sizes) -> Array:
    """Returns `(*shape, 1)`: True where an image of `size` voxels is."""
    inside = jnp.ones((1,) * (len(shape) + 1), bool)
    for axis, length in enumerate(shape):
        line = jnp.arange(length) < size[axis]
        inside = inside & line.reshape([-1 if other == axis else 1 for other in range(len(shape) + 1)])
    return jnp.broadcast_to(inside, (*shape, 1))


def _before(new_size: Sizes, thick: Sequence[int]) -> Array:
    """The zeros before an image that is shorter than the window."""
    return jnp.maximum(jnp.array(thick) - new_size, 0) // 2


def _along(array: Array, matrix: Array, axis: int) -> Array:
    """Multiplies one axis by a matrix, in full precision on every device."""
    product = jnp.tensordot(matrix, array, axes=(1, axis), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


def _prepare(image: Array, facts: Array, *, rules: Rules, bucket: Bucket, thick: Sequence[int]) -> Array:
    size, new_size, orders, _ = facts
    inside = _within(bucket.image, size)
    image = jnp.where(inside, normalize(image, inside[..., 0], rules.settings), 0.0)
    kept = _kept(rules.settings, len(thick))
    before = _before(new_size, thick)
    if not all(kept):
        image = _resample(image, inside, size, new_size, orders, bucket=bucket, kept=kept)
    for axis in range(len(thick)):
        if thick[axis] > 1:
            image = jnp.roll(image, before[axis], axis)
    return image


def _resample(image: Array, inside: Array, size, new_size, orders, *, bucket: Bucket, kept: Sequence[bool]) -> Array:
    """Cubic splines along the axes that are not `kept`, cut off at the range of the image as on the host."""
    axes = range(len(kept))
    matrices = {
        axis: resample_matrix(
            size[axis], new_size[axis], orders[axis], shape=(bucket.grid[axis], bucket.image[axis]), smooth=3
        )
        for axis in axes
        if not kept[axis]
    }
    limits = [
        _limit(image, inside, orders, matrices, reduce=reduce, outside=outside)
        for reduce, outside in ((jnp.min, jnp.inf), (jnp.max, -jnp.inf))
    ]
    # Axes that shrink go first: less is left to do for the others.
    for axis in sorted(matrices, key=lambda axis: bucket.grid[axis] / bucket.image[axis]):
        image = _along(image, matrices[axis], axis)
    return jnp.where(_within(bucket.grid, new_size), jnp.clip(image, *limits), 0.0)


def _limit(image: Array, inside: Array, orders: Sizes, matrices: Mapping[int, Array], *, reduce, outside) -> Array:
    """The smallest or largest value of each channel; of each plane along an axis that is taken by nearest neighbour."""
    spatial = tuple(range(image.ndim - 1))
    image = jnp.where(inside, image, outside)
    limit = reduce(image, axis=spatial, keepdims=True)
    for axis in spatial:
        planes = reduce(image, axis=tuple(other for other in spatial if other != axis), keepdims=True)
        planes = jnp.where(jnp.isfinite(planes), planes, 0.0)  # beyond the image
        planes = _along(planes, matrices[axis], axis) if axis in matrices else planes
        limit = jnp.where(orders[axis] == 0, planes, limit)
    return limit


def normalize(
    image: Float[Array | np.ndarray, "*S C"], inside: Bool[Array | np.ndarray, "*S"], settings: Settings
) -> Float[Array, "*S C"]:
    """Brings each channel to its own scale, as `data.preprocess.forward` does before it resamples.

    Args:
      image: `(*S, C)` float32.
      inside: `(*S)`: where it is; what it holds elsewhere counts nothing.
      settings: which say how.
    """
    image, inside = jnp.asarray(image), jnp.asarray(inside)
    mask = ops.fill_holes((image != 0).any(-1) & inside) if "zscore_mask" in settings.normalize else inside
    channels = []
    for channel, kind in enumerate(settings.normalize):
        values = image[..., channel]
        if kind == "ct":
            statistics = (settings.statistics or ())[channel] or {}
            values = jnp.clip(values, statistics["p005"], statistics["p995"])
            values = (values - statistics["mean"]) / max(statistics["std"], TINY)
        elif kind in ("zscore", "zscore_mask"):
            values = _standardize(values, inside if kind == "zscore" else mask)
            values = values if kind == "zscore" else jnp.where(mask, values, 0.0)
        elif kind == "unit":
            low = jnp.min(values, where=inside, initial=jnp.inf)
            high = jnp.max(values, where=inside, initial=-jnp.inf)
            values = (values - low) / jnp.maximum(high - low, TINY)
        elif kind == "rgb":
            values = values / 255.0
        channels.append(values)
    return jnp.stack(channels, axis=-1)


def _standardize(values: Float[Array, "*S"], mask: Array) -> Float[Array, "*S"]:
    """Returns `(values - mean) / deviation` of what the mask shows, or the values as they are where it shows none."""
    count = jnp.maximum(mask.sum(), 1).astype(jnp.float32)

    def mean(numbers: Array) -> Array:
        return _total(jnp.where(mask, numbers, 0.0)) / count

    middle = mean(values)
    middle = middle + mean(values - middle)  # what rounding has left
    deviation = jnp.sqrt(mean((values - middle) ** 2))
    return jnp.where(mask.any(), (values - middle) / jnp.maximum(deviation, TINY), values)


def _total(values: Array) -> Array:
    """Sums axis by axis. The barrier keeps XLA from adding millions of voxels to one number, which float32 rounds."""
    for _ in range(values.ndim):
        values = lax.optimization_barrier(values.sum(-1))
    return values


def _look(
    variables: Any,
    image: Array,
    sums: Array,
    corners: Array,
    count: Array,
    flips: Array,
    *,
    predict_fn: Callable[[Any, Array], Array],
    rules: Rules,
    thick: Sequence[int],
) -> Array:
    places = [(*(corner[axis] for axis in range(len(thick))), 0) for corner in corners]
    windows = [lax.dynamic_slice(image, place, (*thick, rules.channels)) for place in places]
    batch = jnp.stack([window.reshape(*rules.window, rules.channels) for window in windows])
    outputs = _mirrored(functools.partial(predict_fn, variables), batch, flips, rules)
    weights = importance(rules.window, rules.weight)
    for number, place in enumerate(places):
        sums = add_window(sums, outputs[number], weights * (number < count), place)
    return sums


def _mirrored(predict_fn: PredictFn, batch: Array, flips: Array, rules: Rules) -> Array:
    """What the network says of the flipped windows, flipped back."""

    def flip(array: Array) -> Array:
        for place, axis in enumerate(rules.flip_axes):
            array = jnp.where(flips[place], jnp.flip(array, axis + 1), array)
        return array

    outputs = flip(predict_fn(flip(batch)).astype(jnp.float32))
    last = len(rules.window) - 1
    if rules.flip_pairs and last in rules.flip_axes:
        exchanged = outputs[..., exchange(rules.flip_pairs, rules.outputs)]
        outputs = jnp.where(flips[rules.flip_axes.index(last)], exchanged, outputs)
    return outputs


def _finish(
    sums: Array,
    facts: Array,
    start: Array,
    *,
    rules: Rules,
    bucket: Bucket,
    thick: Sequence[int],
    slab: int,
) -> Array:
    size, new_size, _, orders = facts
    outputs, before = _mean(sums), _before(new_size, thick)
    for axis, length in enumerate((slab, *bucket.image[1:])):
        first = start if axis == 0 else 0
        if _kept(rules.settings, len(thick))[axis]:
            outputs = jnp.roll(outputs, -before[axis], axis) if thick[axis] > 1 else outputs
            rows = jnp.minimum(first + jnp.arange(length), outputs.shape[axis] - 1)  # what is too many is cut off later
            outputs = jnp.take(outputs, rows, axis) if axis == 0 else outputs
            continue
        matrix = resample_matrix(
            new_size[axis],
            size[axis],
            orders[axis],
            shape=(length, bucket.grid[axis]),
            smooth=1,
            row_start=-first,
            column_start=before[axis],
        )
        outputs = _along(outputs, matrix, axis)
    return _labels(outputs, rules)


def _mean(sums: Array) -> Array:
    """Divides the sums by the weights; 0 where no window has been."""
    weights = sums[..., -1:]
    return jnp.where(weights > 0, sums[..., :-1] / jnp.where(weights > 0, weights, 1.0), 0.0)


def _labels(outputs: Float[Array, "*S K"], rules: Rules) -> Integer[Array, "*S"]:
    """Returns the users' own label values."""
    kind = label_dtype(np.array(rules.label_values))
    values = np.array(rules.label_values, kind)
    if rules.regions is None:
        return jnp.asarray(values)[outputs.argmax(-1)]
    outputs = jax.nn.sigmoid(outputs) if rules.logits else outputs
    labels = jnp.full(outputs.shape[:-1], values[0])
    for number, written in enumerate(postprocess.region_classes(rules.regions)):
        labels = jnp.where(outputs[..., number] > 0.5, values[written], labels)
    return labels
