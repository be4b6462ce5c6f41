"""Grey values and colours: what a scanner, a camera or a protocol changes while the anatomy stays.

Each function draws per channel unless it says otherwise, leaves the label alone and is finite on constant and on
negative images. Strengths suit images normalised to about unit standard deviation; defaults are nnU-Net's.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg.data.augment.draw import Sample, around_one, chance, sometimes, spatial_axes, uniform

TINY = 1e-7
HIGHEST = jax.lax.Precision.HIGHEST


def gaussian_noise(
    key: Array, sample: Sample, *, probability: float = 0.1, strength: tuple[float, float] = (0.0, 0.1)
) -> Sample:
    """Adds white noise, of one standard deviation for all channels, drawn from `strength` (in image units)."""
    when, how, what = jax.random.split(key, 3)
    deviation = uniform(how, strength)

    def change(image):
        return image + deviation.astype(image.dtype) * jax.random.normal(what, image.shape, image.dtype)

    return sample | {"image": sometimes(when, probability, change, sample["image"])}


def gaussian_blur(
    key: Array,
    sample: Sample,
    *,
    probability: float = 0.2,
    channel_probability: float = 0.5,
    sigma: tuple[float, float] = (0.5, 1.0),
) -> Sample:
    """Blurs each chosen channel with its own width.

    Args:
      key: random key.
      sample: one image and label.
      probability: that the image is touched at all.
      channel_probability: that a channel of a touched image is blurred.
      sigma: limits of the width in voxels, along every axis.
    """
    when, which, how = jax.random.split(key, 3)
    channels = sample["image"].shape[-1]
    width = jnp.where(chance(which, channel_probability, (channels,)), uniform(how, sigma, (channels,)), 0.0)

    def change(image):
        return blur(image, width, radius=math.ceil(4 * max(sigma)))

    return sample | {"image": sometimes(when, probability, change, sample["image"])}


def blur(image: Float[Array, "*S C"], sigma: Float[Array, "C"], *, radius: int) -> Float[Array, "*S C"]:
    """Gaussian blur as sums of shifted copies, axis after axis; beyond the border the image is reflected (edge twice).

    Args:
      image: one image.
      sigma: width in voxels for each channel; 0 returns the channel unchanged.
      radius: taps on each side, static; 4 sigma equals `scipy.ndimage.gaussian_filter`.
    """
    steps = jnp.arange(radius + 1, dtype=jnp.float32)[:, None]
    # At a width of 1e-3 every neighbour's weight underflows to exactly 0.
    weights = jnp.exp(-0.5 * (steps / jnp.maximum(sigma, 1e-3)) ** 2)
    weights = (weights / (2 * weights.sum(0) - weights[0])).astype(image.dtype)
    for axis in spatial_axes(image):
        length = image.shape[axis]
        padding = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        wide = jnp.pad(image, padding, mode="symmetric")
        shifted = [jax.lax.slice_in_dim(wide, k, k + length, axis=axis) for k in range(2 * radius + 1)]
        pairs = ((shifted[radius - k] + shifted[radius + k]) * weights[k] for k in range(1, radius + 1))
        image = shifted[radius] * weights[0] + sum(pairs)
    return image


def brightness(
    key: Array, sample: Sample, *, probability: float = 0.15, factor: tuple[float, float] = (0.75, 1.25)
) -> Sample:
    """Multiplies each channel by its own factor."""
    when, how = jax.random.split(key)
    image = sample["image"]
    factors = around_one(how, factor, image.shape[-1:]).astype(image.dtype)
    return sample | {"image": sometimes(when, probability, lambda image: image * factors, image)}


def contrast(
    key: Array,
    sample: Sample,
    *,
    probability: float = 0.15,
    factor: tuple[float, float] = (0.75, 1.25),
    preserve_range: bool = True,
) -> Sample:
    """Stretches each channel around its mean; `preserve_range` clips to the channel's old minimum and maximum."""
    when, how = jax.random.split(key)
    factors = around_one(how, factor, sample["image"].shape[-1:]).astype(sample["image"].dtype)

    def change(image):
        axes = spatial_axes(image)
        mean = image.mean(axes)
        stretched = (image - mean) * factors + mean
        return jnp.clip(stretched, image.min(axes), image.max(axes)) if preserve_range else stretched

    return sample | {"image": sometimes(when, probability, change, sample["image"])}


def low_resolution(
    key: Array,
    sample: Sample,
    *,
    probability: float = 0.25,
    channel_probability: float = 0.5,
    zoom: tuple[float, float] = (0.5, 1.0),
    axes: Sequence[int] | None = None,
) -> Sample:
    """Shrinks with the nearest voxel and enlarges linearly again, as if the scanner had seen less.

    Args:
      key: random key.
      sample: one image and label.
      probability: that the image is touched at all.
      channel_probability: that a channel of a touched image is coarsened, each by its own zoom, one for all axes.
      zoom: limits of the coarse size over the size.
      axes: spatial axes; all by default (nnU-Net leaves out axis 0 of a stack of slices).
    """
    when, which, how = jax.random.split(key, 3)
    channels = sample["image"].shape[-1]
    chosen = chance(which, channel_probability, (channels,))
    zooms = uniform(how, zoom, (channels,))
    axes = spatial_axes(sample["image"]) if axes is None else axes

    def change(image):
        return jnp.where(chosen, coarsen(image, zooms, axes=axes), image)

    return sample | {"image": sometimes(when, probability, change, sample["image"])}


def coarsen(image: Float[Array, "*S C"], zoom: Float[Array, "C"], *, axes: Sequence[int]) -> Float[Array, "*S C"]:
    """Returns the image after nearest down-sampling to round(zoom x size) and linear up-sampling (half-pixel centres).

    The coarse size is an array's value, so both steps along an axis are one (n, n) matrix of static shape.
    """
    n = image.ndim - 1
    letters = "xyz"[:n]
    for axis in sorted(axis % n for axis in axes):
        matrix = jax.vmap(lambda z, length=image.shape[axis]: _coarsening_matrix(z, length))(zoom)
        old = letters[axis]
        rule = f"co{old},{letters}c->{letters.replace(old, 'o')}c"
        image = jnp.einsum(rule, matrix.astype(image.dtype), image, precision=HIGHEST)
    return image


def _coarsening_matrix(zoom: Float[Array, ""], length: int) -> Float[Array, "n n"]:
    count = jnp.clip(jnp.round(zoom * length), 1, length)
    # Integers: a float's rounding may take the wrong voxel where a coarse centre falls between two.
    count = count.astype(jnp.int32)
    ratio = count.astype(jnp.float32) / length
    position = jnp.clip((jnp.arange(length) + 0.5) * ratio - 0.5, 0, count - 1)
    lower = jnp.floor(position).astype(jnp.int32)
    fraction = position - lower
    matrix = jnp.zeros((length, length), jnp.float32)
    for index, weight in ((lower, 1 - fraction), (jnp.minimum(lower + 1, count - 1), fraction)):
        source = (2 * index + 1) * length // (2 * count)  # the voxel under the coarse voxel's centre
        matrix = matrix + weight[:, None] * jax.nn.one_hot(source, length, dtype=jnp.float32)
    return matrix


def gamma(
    key: Array,
    sample: Sample,
    *,
    probability: float = 0.3,
    exponent: tuple[float, float] = (0.7, 1.5),
    invert: bool = False,
    retain_stats: bool = True,
) -> Sample:
    """Raises each channel, scaled to 0-1, to a random power.

    Args:
      key: random key.
      sample: one image and label.
      probability: that the image is changed; nnU-Net also runs the inverted form with 0.1.
      exponent: limits, half drawn below 1 and half above.
      invert: work on the negative image, so that bright values are bent instead of dark ones.
      retain_stats: give each channel its old mean and standard deviation back.
    """
    when, how = jax.random.split(key)
    exponents = around_one(how, exponent, sample["image"].shape[-1:]).astype(sample["image"].dtype)

    def change(image):
        axes = spatial_axes(image)
        values = -image if invert else image
        low = values.min(axes)
        span = values.max(axes) - low
        bent = jnp.clip((values - low) / jnp.maximum(span, TINY), 0, 1) ** exponents * span + low
        if retain_stats:
            bent = (bent - bent.mean(axes)) / jnp.maximum(bent.std(axes), TINY) * values.std(axes) + values.mean(axes)
        return -bent if invert else bent

    return sample | {"image": sometimes(when, probability, change, sample["image"])}


def inverted_gamma(
    key: Array, sample: Sample, *, probability: float = 0.1, exponent: tuple[float, float] = (0.7, 1.5)
) -> Sample:
    """Applies `gamma` to the negative image, with nnU-Net's probability."""
    return gamma(key, sample, probability=probability, exponent=exponent, invert=True)


def bias_field(
    key: Array, sample: Sample, *, probability: float = 0.3, strength: float = 0.3, degree: int = 3
) -> Sample:
    """Multiplies by a smooth field, as an MR coil does: exp of a random polynomial (the model of Van Leemput 1999).

    The field acts on what lies above the channel's minimum, so that dark background stays dark after a z-score too. All
    channels share one field.

    Args:
      key: random key.
      sample: one image and label.
      probability: of a field.
      strength: coefficients are uniform within plus and minus this; coordinates run from -1 to 1.
      degree: the polynomial's total degree.
    """
    when, how = jax.random.split(key)

    def change(image):
        low = image.min(spatial_axes(image))
        field = random_field(how, image.shape[:-1], strength=strength, degree=degree)
        return (image - low) * field[..., None].astype(image.dtype) + low

    return sample | {"image": sometimes(when, probability, change, sample["image"])}


def random_field(key: Array, size: Sequence[int], *, strength: float, degree: int) -> Float[Array, "*S"]:
    """Returns exp of a polynomial with random coefficients for every monomial of total degree 1 to `degree`."""
    n = len(size)
    total = np.indices((degree + 1,) * n).sum(0)
    wanted = jnp.asarray((total >= 1) & (total <= degree))
    logarithm = jnp.where(wanted, uniform(key, (-strength, strength), wanted.shape), 0.0)
    for axis, length in enumerate(size):
        powers = jnp.asarray(np.linspace(-1, 1, length)[:, None] ** np.arange(degree + 1), jnp.float32)
        product = jnp.tensordot(powers, logarithm, axes=(1, axis), precision=HIGHEST)
        logarithm = jnp.moveaxis(product, 0, axis)
    return jnp.exp(logarithm)


def color_jitter(
    key: Array,
    sample: Sample,
    *,
    probability: float = 0.5,
    hue: float = 0.1,
    saturation: tuple[float, float] = (0.75, 1.25),
) -> Sample:
    """Turns the hue and stretches the saturation of an RGB image by one linear map of the three channels.

    Grey stays grey: hue turns, and saturation scales, the plane across the grey diagonal. The map is linear, so images
    with channels normalised alike may be given; channels normalised each by itself lose their grey axis.

    Args:
      key: random key.
      sample: one image with three channels, and its label.
      probability: of a change.
      hue: largest turn in radians, in either direction.
      saturation: limits of the factor; 0 would be grey.

    Raises:
      ValueError: the image has not three channels.
    """
    image = sample["image"]
    if image.shape[-1] != 3:
        raise ValueError(f"color_jitter expects an RGB image with 3 channels, but the image has {image.shape[-1]}.")
    when, how, far = jax.random.split(key, 3)
    angle = uniform(how, (-hue, hue))
    factor = around_one(far, saturation)
    # Rodrigues' rotation about the unit diagonal k: cos I + sin [k]x + (1 - cos) k k^T, whose last part is the grey.
    grey = np.full((3, 3), 1 / 3, np.float32)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / math.sqrt(3)
    colour = np.eye(3, dtype=np.float32) - grey
    matrix = (grey + factor * (jnp.cos(angle) * colour + jnp.sin(angle) * cross)).astype(image.dtype)

    def change(image):
        return jnp.einsum("...c,dc->...d", image, matrix, precision=HIGHEST)

    return sample | {"image": sometimes(when, probability, change, image)}
