"""Geometry: what moves voxels moves image and label together, in one interpolation.

Rotation, scaling and elastic deformation are one warp: each further interpolation would blur the image again. Angles
are in radians, displacements in voxels. Images are filled with 0, which is the mean after z-score normalisation.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.data.augment.draw import Sample, around_one, chance, reads, sometimes
from jaxseg.ops import warp

QUARTER = math.pi / 2


def flattened(patch_size: Sequence[int]) -> bool:
    """Says whether nnU-Net treats a patch as a stack of slices: axis 0 of three over 3 times smaller than another."""
    return len(patch_size) == 3 and max(patch_size) > 3 * patch_size[0]


def default_angle(patch_size: Sequence[int], *, dummy_2d: bool | None = None) -> float:
    """Returns nnU-Net's largest angle in radians: 3D 30°; slices and 2D 180°, but long 2D patches (over 3:2) 15°."""
    dummy_2d = flattened(patch_size) if dummy_2d is None else dummy_2d
    if len(patch_size) == 2:
        return math.radians(15 if max(patch_size) > 1.5 * min(patch_size) else 180)
    return math.radians(180 if dummy_2d else 30)


def input_size(
    patch_size: Sequence[int],
    *,
    max_angle: float | Sequence[float],
    scale: tuple[float, float] = (0.7, 1.4),
    dummy_2d: bool = False,
) -> tuple[int, ...]:
    """Returns the raw patch to read, so that a turned and scaled patch seldom reaches beyond it.

    nnU-Net's rule: each rotation alone, at its largest angle (at most a quarter turn), then divided by the smallest
    scale, rounded down. The far corners of several rotations at once may stay outside and are filled. nnU-Net itself
    calls it with (0.85, 1.25) while drawing from 0.7 to 1.4, to read less: (128, 128, 128) with 30° gives 205 each.

    Args:
      patch_size: what the augmentation returns.
      max_angle: radians, one for all axes or one an axis.
      scale: smallest and largest factor.
      dummy_2d: the first of three axes takes no part and keeps its size.
    """
    if dummy_2d:
        return (int(patch_size[0]), *input_size(patch_size[1:], max_angle=_largest(max_angle), scale=scale))
    angles = [max_angle] * 3 if isinstance(max_angle, (int, float)) else list(max_angle)
    size = [float(n) for n in patch_size]
    planes = {0: (0, 1)} if len(size) == 2 else {0: (1, 2), 1: (0, 2), 2: (0, 1)}
    for turned, (a, b) in planes.items():
        angle = min(abs(angles[turned]), QUARTER)
        cosine, sine = math.cos(angle), math.sin(angle)
        size[a] = max(size[a], patch_size[a] * cosine + patch_size[b] * sine)
        size[b] = max(size[b], patch_size[b] * cosine + patch_size[a] * sine)
    # The small term keeps 512 / 1 from being rounded down to 511.
    return tuple(int(n / min(scale) + 1e-6) for n in size)


def _largest(angle: float | Sequence[float]) -> float:
    return abs(angle) if isinstance(angle, (int, float)) else max(abs(a) for a in angle)


def _rotate_scale_input(patch_size, *, max_angle=None, scale=(0.7, 1.4), dummy_2d=None, **_) -> tuple[int, ...]:
    dummy_2d = flattened(patch_size) if dummy_2d is None else dummy_2d
    angle = default_angle(patch_size, dummy_2d=dummy_2d) if max_angle is None else max_angle
    return input_size(patch_size, max_angle=angle, scale=scale, dummy_2d=dummy_2d)


@reads(_rotate_scale_input)
def rotate_scale(
    key: Array,
    sample: Sample,
    *,
    patch_size: Sequence[int] | None = None,
    probability: float = 0.2,
    max_angle: float | Sequence[float] | None = None,
    scale: tuple[float, float] = (0.7, 1.4),
    elastic_probability: float = 0.0,
    elastic_sigma: float | Sequence[float] = 10.0,
    elastic_points: int = 3,
    dummy_2d: bool | None = None,
    interpolation: str = "nearest",
    fill: float = 0.0,
    label_fill: int = 0,
) -> Sample:
    """Rotates, scales and bends in one warp, and cuts the centre patch out (nnU-Net's spatial transform).

    Args:
      key: random key.
      sample: one image and label, as large as the patch or larger; where smaller, the rest is filled.
      patch_size: the size to return; the sample's own by default.
      probability: of a rotation, and independently of a scaling.
      max_angle: radians; each angle is uniform within plus and minus it. One number, or one for each of three axes.
        By default nnU-Net's rule, see `default_angle`.
      scale: limits of the one factor for all axes, half drawn below 1 and half above. It multiplies coordinates, as in
        nnU-Net: above 1 objects shrink.
      elastic_probability: of an elastic deformation in the same warp; nnU-Net has it at 0.
      elastic_sigma, elastic_points: see `elastic`.
      dummy_2d: turn, scale and bend within the slices of axis 0 only; by default where that axis is 3 times shorter.
      interpolation: of labels, "nearest" or "linear" (the largest of the classes' interpolated indicators, nnU-Net's).
      fill, label_fill: what lies outside the sample.

    Raises:
      ValueError: the patch has other axes than the image, or `dummy_2d` is asked of a 2D image.
    """
    size = _patch(sample, patch_size)
    dummy_2d = flattened(size) if dummy_2d is None else dummy_2d
    if dummy_2d and len(size) != 3:
        raise ValueError(f"dummy_2d is for 3D images, but the patch has {len(size)} axes.")
    max_angle = default_angle(size, dummy_2d=dummy_2d) if max_angle is None else max_angle
    max_angle = _largest(max_angle) if dummy_2d else max_angle
    plane = size[1:] if dummy_2d else size
    turn, zoom, bend = jax.random.split(key, 3)
    matrix, moved = _random_matrix(turn, zoom, len(plane), probability, max_angle, scale)
    start = _centre(sample["label"].shape, size)
    middle = [first + (length - 1) / 2 for first, length in zip(start, size)]
    vectors, bent = _random_vectors(bend, len(plane), elastic_probability, elastic_sigma, elastic_points)
    labels = {"interpolation": interpolation, "fill": label_fill}

    def move(sample):
        coordinates = warp.affine_coordinates(matrix, plane, center=middle[-len(plane) :])
        if elastic_probability:
            coordinates = coordinates + warp.displacement(vectors, plane)
        if not dummy_2d:
            return _warp(sample, coordinates, fill, labels)
        # A stack of slices with the same coordinates: half the corners of a 3D warp.
        stack = _crop(sample, (start[0], 0, 0), (size[0], *sample["label"].shape[1:]), fill, label_fill)
        return jax.vmap(lambda one: _warp(one, coordinates, fill, labels))(stack)

    return jax.lax.cond(moved | bent, move, lambda same: _crop(same, start, size, fill, label_fill), sample)


def _random_matrix(turn, zoom, n, probability, max_angle, scale) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """Returns the map, and whether it is another than the identity."""
    count = 1 if n == 2 else 3
    when, which = jax.random.split(turn)
    turned = chance(when, probability)
    limit = jnp.broadcast_to(jnp.asarray(max_angle, jnp.float32), (count,))
    angles = jnp.where(turned, limit * jax.random.uniform(which, (count,), minval=-1.0, maxval=1.0), 0.0)
    when, which = jax.random.split(zoom)
    scaled = chance(when, probability)
    factor = jnp.where(scaled, around_one(which, scale), 1.0)
    return warp.affine_matrix(angles, factor), turned | scaled


def _random_vectors(key, n, probability, sigma, points) -> tuple[Float[Array, "*G n"], Bool[Array, ""]]:
    """Returns displacements on the coarse grid, and whether they are other than zero."""
    when, which = jax.random.split(key)
    bent = chance(when, probability)
    spread = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32).reshape(-1)[-n:], (n,))
    return jnp.where(bent, spread * jax.random.normal(which, (points,) * n + (n,)), 0.0), bent


def _warp(sample, coordinates, fill, labels) -> Sample:
    return {
        "image": warp.sample(sample["image"], coordinates, order=1, fill=fill),
        "label": warp.sample_labels(sample["label"], coordinates, **labels),
    }


def _elastic_input(patch_size, *, sigma=10.0, **_) -> tuple[int, ...]:
    sigmas = [sigma] * len(patch_size) if isinstance(sigma, (int, float)) else sigma
    # Two standard deviations on each side cover 95 % of the control points.
    return tuple(n + 2 * math.ceil(2 * s) for n, s in zip(patch_size, sigmas))


@reads(_elastic_input)
def elastic(
    key: Array,
    sample: Sample,
    *,
    patch_size: Sequence[int] | None = None,
    probability: float = 0.5,
    sigma: float | Sequence[float] = 10.0,
    points: int = 3,
    interpolation: str = "nearest",
    fill: float = 0.0,
    label_fill: int = 0,
) -> Sample:
    """Bends by random vectors on a coarse grid, with cubic interpolation between (Ronneberger 2015, section 3.1).

    Args:
      key: random key.
      sample: one image and label.
      patch_size: the centre patch to return; the sample's own size by default.
      probability: of a deformation.
      sigma: standard deviation of the vectors in voxels, one number or one an axis; 0 keeps an axis still.
      points: grid points along each axis; the outer ones lie on the patch's border.
      interpolation, fill, label_fill: see `rotate_scale`.
    """
    size = _patch(sample, patch_size)
    start = _centre(sample["label"].shape, size)
    middle = [first + (length - 1) / 2 for first, length in zip(start, size)]
    vectors, bent = _random_vectors(key, len(size), probability, sigma, points)

    def move(sample):
        coordinates = warp.affine_coordinates(jnp.eye(len(size)), size, center=middle)
        coordinates = coordinates + warp.displacement(vectors, size)
        return _warp(sample, coordinates, fill, {"interpolation": interpolation, "fill": label_fill})

    return jax.lax.cond(bent, move, lambda same: _crop(same, start, size, fill, label_fill), sample)


def mirror(
    key: Array,
    sample: Sample,
    *,
    probability: float = 0.5,
    axes: Sequence[int] | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    left_right_axis: int = -1,
) -> Sample:
    """Flips each axis with the probability; a left-right flip exchanges the classes that come in pairs.

    Args:
      key: random key.
      sample: one image and label.
      probability: of a flip, for each axis by itself.
      axes: spatial axes that may flip, all by default. Leave out an axis whose flip makes anatomy that does not exist.
      pairs: class ids such as (left kidney, right kidney).
      left_right_axis: the spatial axis from left to right; -1 is x in an array ordered (z, y, x).

    Raises:
      ValueError: an axis does not exist.
    """
    image, label = sample["image"], sample["label"]
    n = label.ndim
    axes = range(n) if axes is None else axes
    missing = sorted({axis for axis in (*axes, left_right_axis) if not -n <= axis < n})
    if missing:
        named = " and ".join(map(str, missing))
        raise ValueError(f"mirror knows the axes {-n} to {n - 1} of an image with {n} spatial axes, not {named}.")
    flips = chance(key, probability, (n,))
    for axis in sorted({axis % n for axis in axes}):
        image, label = _flip(image, axis, flips[axis]), _flip(label, axis, flips[axis])
        if axis == left_right_axis % n:
            label = jnp.where(flips[axis], exchange(label, pairs), label)
    return {"image": image, "label": label}


def _flip(array: Array, axis: int, flip: Array) -> Array:
    # An index instead of `where(flip, flipped, array)`: that reads the array twice, so three axes in one XLA fusion
    # would compute what stands before them, such as a warp, eight times.
    place = jnp.arange(array.shape[axis])
    return array.take(jnp.where(flip, place[::-1], place), axis=axis, mode="clip")


def exchange(label: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    """Swaps the two ids of each pair in a label map."""
    swapped = label
    for first, second in pairs:
        swapped = jnp.where(label == first, second, jnp.where(label == second, first, swapped))
    return swapped.astype(label.dtype)


def rotate90(key: Array, sample: Sample, *, probability: float = 0.5, axes: tuple[int, int] = (-2, -1)) -> Sample:
    """Turns by one to three quarters in a plane, without interpolation; where the plane is not square, by a half turn.

    Args:
      key: random key.
      sample: one image and label.
      probability: of a turn.
      axes: the plane's two spatial axes.
    """
    n = sample["label"].ndim
    a, b = (axis % n for axis in axes)
    size = sample["label"].shape
    when, which = jax.random.split(key)
    turns = jax.random.randint(which, (), 1, 4) if size[a] == size[b] else jnp.asarray(2)
    turns = jnp.where(chance(when, probability), turns, 0)

    def turn(array):
        # Any quarter turn is a transposition and two flips, each taken or not.
        if size[a] == size[b]:
            array = jnp.where(turns % 2 == 1, jnp.swapaxes(array, a, b), array)
        array = _flip(array, a, (turns == 1) | (turns == 2))
        return _flip(array, b, (turns == 2) | (turns == 3))

    return {"image": turn(sample["image"]), "label": turn(sample["label"])}


def center_crop(key: Array, sample: Sample, *, patch_size: Sequence[int]) -> Sample:
    """Cuts the centre patch out; nothing is random. A sample smaller than the patch is filled with 0."""
    del key
    size = _patch(sample, patch_size)
    return _crop(sample, _centre(sample["label"].shape, size), size, 0.0, 0)


def random_crop(key: Array, sample: Sample, *, patch_size: Sequence[int]) -> Sample:
    """Cuts a patch out at a random place; every place inside is equally likely, the last corner included.

    Raises:
      ValueError: the patch is larger than the sample.
    """
    size = _patch(sample, patch_size)
    room = [have - want for have, want in zip(sample["label"].shape, size)]
    if min(room) < 0:
        raise ValueError(f"A patch of {size} does not fit into {sample['label'].shape}; use center_crop, which fills.")
    start = jax.random.randint(key, (len(size),), 0, jnp.asarray(room) + 1)
    image = jax.lax.dynamic_slice(sample["image"], (*start, 0), (*size, sample["image"].shape[-1]))
    return {"image": image, "label": jax.lax.dynamic_slice(sample["label"], tuple(start), size)}


def cutout(
    key: Array, sample: Sample, *, probability: float = 0.5, fraction: float = 0.25, fill: float = 0.0
) -> Sample:
    """Blanks one box of the image at a random place; the label stays, so the network must infer it (DeVries 2017).

    Args:
      key: random key.
      sample: one image and label.
      probability: of a box.
      fraction: the box's side over the image's, along each axis.
      fill: the value inside.
    """
    when, which = jax.random.split(key)
    size = sample["label"].shape
    blank = jnp.asarray(fill, sample["image"].dtype)
    starts = jax.random.uniform(which, (len(size),))
    inside = jnp.ones((), bool)
    for axis, length in enumerate(size):
        side = max(round(length * fraction), 1)
        first = jnp.floor(starts[axis] * (length - side + 1))
        line = jnp.arange(length).reshape([-1 if a == axis else 1 for a in range(len(size))])
        inside = inside & (line >= first) & (line < first + side)
    image = sometimes(when, probability, lambda image: jnp.where(inside[..., None], blank, image), sample["image"])
    return sample | {"image": image}


def _patch(sample: Sample, patch_size: Sequence[int] | None) -> tuple[int, ...]:
    shape = sample["label"].shape
    size = shape if patch_size is None else tuple(int(n) for n in patch_size)
    if len(size) != len(shape) or sample["image"].shape[:-1] != shape:
        got = f"image {sample['image'].shape}, label {shape}"
        raise ValueError(f"A patch of {size} expects image (*S, C) and label (*S) with as many axes, but got {got}.")
    return size


def _centre(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    # Whole voxels, so that without rotation the crop is exact.
    return tuple((have - want) // 2 for have, want in zip(shape, size))


def _crop(sample: Sample, start, size, fill, label_fill) -> Sample:
    """Static crop; a negative start or a size beyond the end is padded."""
    shape = sample["label"].shape
    padding = [(max(-s, 0), max(s + n - have, 0)) for s, n, have in zip(start, size, shape)]
    place = tuple(slice(s + before, s + before + n) for s, n, (before, _) in zip(start, size, padding))
    image = jnp.pad(sample["image"], [*padding, (0, 0)], constant_values=fill)[place]
    return {"image": image, "label": jnp.pad(sample["label"], padding, constant_values=label_fill)[place]}
