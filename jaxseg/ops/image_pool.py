"""A pool of earlier generated images, from which a discriminator is shown some (Shrivastava 2017; CycleGAN).

Arrays of fixed shape, so that the pool lives in a training state and is checkpointed with it:

    pool = image_pool.start(50, (256, 256, 1))
    pool, shown = image_pool.exchange(key, pool, fakes)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

EXCHANGED = 0.5  # of new images, once the pool is full


class ImagePool(NamedTuple):
    """N places for images, of which the first `filled` are taken."""

    images: Float[Array, "N *S C"]
    filled: Int[Array, ""]


def start(size: int, shape: Sequence[int], *, dtype=jnp.float32) -> ImagePool:
    """An empty pool of `size` places for images `(*S, C)`; with 0 places every image is shown at once.

    Raises:
      ValueError: a negative size.
    """
    if size < 0:
        raise ValueError(f"The size of an image pool should be 0 or more; it is {size}.")
    return ImagePool(jnp.zeros((size, *shape), dtype), jnp.zeros((), jnp.int32))


def exchange(
    key: Array, pool: ImagePool, fakes: Float[Array | np.ndarray, "B *S C"], *, axis_name: str | None = None
) -> tuple[ImagePool, Float[Array, "B *S C"]]:
    """Returns the pool with new images in it, and what the discriminator is shown instead of them.

    One image after another: while there is room it is stored and shown. In a full pool, with probability 1/2, it takes
    the place of a stored one drawn at random, which is shown; else it is shown itself and forgotten.

    Args:
      key: random key; image i of the batch draws from `fold_in(key, i)`.
      pool: of `start`, for images of the same shape.
      fakes: new images; no gradient passes through them.
      axis_name: mapped axis (pmap) whose devices share one pool: given the same key and pool everywhere, all devices
        return the same pool, as one device with the whole batch would, and each what stands for its own images.

    Raises:
      ValueError: the images' shape is not the pool's.
    """
    fakes = jax.lax.stop_gradient(jnp.asarray(fakes))
    if fakes.shape[1:] != pool.images.shape[1:]:
        raise ValueError(f"An image pool for {pool.images.shape[1:]} got images of shape {fakes.shape[1:]}.")
    if pool.images.shape[0] == 0:
        return pool, fakes
    if axis_name is None:
        return _exchange_all(key, pool, fakes)
    everything = jax.lax.all_gather(fakes, axis_name, axis=0, tiled=True)
    pool, shown = _exchange_all(key, pool, everything)
    first = jax.lax.axis_index(axis_name) * len(fakes)
    return pool, jax.lax.dynamic_slice_in_dim(shown, first, len(fakes), axis=0)


def _exchange_all(key: Array, pool: ImagePool, fakes: Array) -> tuple[ImagePool, Array]:
    size = pool.images.shape[0]

    def one(pool: ImagePool, item: tuple[Array, Array]) -> tuple[ImagePool, Array]:
        number, fake = item
        whether, where = jax.random.split(jax.random.fold_in(key, number))
        room = pool.filled < size
        swap = ~room & (jax.random.uniform(whether) < EXCHANGED)
        place = jnp.where(room, pool.filled, jax.random.randint(where, (), 0, size))
        old = pool.images[place]
        images = pool.images.at[place].set(jnp.where(room | swap, fake.astype(old.dtype), old))
        shown = jnp.where(swap, old.astype(fake.dtype), fake)
        return ImagePool(images, pool.filled + room.astype(jnp.int32)), shown

    return jax.lax.scan(one, pool, (jnp.arange(len(fakes)), fakes))
