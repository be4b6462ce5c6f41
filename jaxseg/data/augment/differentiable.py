"""Augmentation that gradients pass through: for a discriminator with few images (DiffAugment, Zhao et al. 2020).

Real and generated images are both changed before they are judged, in the generator's step too, so that the generator
does not learn the changes as part of the images.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer


def differentiable_augment(
    key: Array,
    image: Float[Array | np.ndarray, "B *S C"],
    *,
    brightness: float = 0.5,
    translation: float = 0.125,
    cutout: float = 0.5,
    index: Integer[Array | np.ndarray, "B"] | None = None,
) -> Float[Array, "B *S C"]:
    """Brightens, shifts and blanks each image at random; the defaults are the paper's.

    Each change has its own draw, which depends only on the key, the sample's place and the number of spatial axes:
    arrays of one spatial size given one key are changed alike, whatever their channels and the other options. So a
    label map follows its image with `brightness=0.0`.

    Args:
      key: random key.
      image: batch, best of values from -1 to 1.
      brightness: half the range of a number added to all channels, uniform around 0; 0: none.
      translation: the farthest shift along an axis, as a fraction of it (whole pixels, rounded); zeros move in.
      cutout: side of the blanked box over the image's, along each axis; its centre is anywhere in the image, and what
        lies outside is lost. 0: none.
      index: the samples' places in the global batch (None: 0, 1, ...), so that devices draw what one would.

    Raises:
      ValueError: a strength is negative, or translation or cutout is above 1.
    """
    limits = (("brightness", brightness, np.inf), ("translation", translation, 1), ("cutout", cutout, 1))
    for name, value, most in limits:
        if not 0 <= value <= most:
            raise ValueError(f"{name} should be from 0 to {most}; it is {value}.")
    image = jnp.asarray(image)
    places = jnp.arange(len(image)) if index is None else jnp.asarray(index)

    def one(place: Array, x: Float[Array, "*S C"]) -> Float[Array, "*S C"]:
        bright, shift, blank = jax.random.split(jax.random.fold_in(key, place), 3)
        if brightness:
            x = x + jax.random.uniform(bright, (), x.dtype, -brightness, brightness)
        if translation:
            x = _translate(x, jax.random.uniform(shift, (x.ndim - 1,)), translation)
        return _blank(x, jax.random.uniform(blank, (x.ndim - 1,)), cutout) if cutout else x

    return jax.vmap(one)(places, image)


def _translate(x: Float[Array, "*S C"], draw: Float[Array, " n"], fraction: float) -> Float[Array, "*S C"]:
    farthest = [round(length * fraction) for length in x.shape[:-1]]
    padded = jnp.pad(x, [*((most, most) for most in farthest), (0, 0)])
    starts = [jnp.floor(draw[axis] * (2 * most + 1)).astype(jnp.int32) for axis, most in enumerate(farthest)]
    return jax.lax.dynamic_slice(padded, [*starts, 0], x.shape)


def _blank(x: Float[Array, "*S C"], draw: Float[Array, " n"], fraction: float) -> Float[Array, "*S C"]:
    inside = jnp.ones((1,) * x.ndim, bool)
    for axis, (length, side) in enumerate(zip(x.shape[:-1], _sides(x.shape[:-1], fraction))):
        # The centre is one of `length` places, of `length + 1` where an even box's centre lies between pixels.
        centre = jnp.floor(draw[axis] * (length + 1 - side % 2)).astype(jnp.int32)
        line = jnp.arange(length).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        inside = inside & (line >= centre - side // 2) & (line < centre - side // 2 + side)
    return jnp.where(inside, jnp.zeros((), x.dtype), x)


def _sides(size: Sequence[int], fraction: float) -> list[int]:
    return [max(round(length * fraction), 1) for length in size]
