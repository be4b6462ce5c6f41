"""Random decisions that the augmentations share.

A sample is a dict of one image, `{"image": Float[Array, "*S C"], "label": Int[Array, "*S"]}`, without a batch axis. An
augmentation is `fn(key, sample, *, options) -> sample`: pure, of static shape, safe in jit and vmap.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Sample = dict[str, Any]


def chance(key: Array, probability: float, shape: Sequence[int] = ()) -> Bool[Array, "..."]:
    """Returns True with the probability; 0 gives never, 1 always."""
    return jax.random.uniform(key, shape) < probability


def sometimes(
    key: Array, probability: float, change: Callable[[Array], Array], image: Float[Array, "*S C"]
) -> Float[Array, "*S C"]:
    """Returns `change(image)` with the probability, else the image itself.

    One sample at a time this is a true branch, and what is not drawn costs nothing; under vmap both sides are computed
    and one is selected (see `compose.batched`). The branch also keeps XLA from fusing a step into the many reads of the
    next, which would compute it once a read.
    """
    return jax.lax.cond(chance(key, probability), change, lambda same: same, image)


def around_one(key: Array, limits: tuple[float, float], shape: Sequence[int] = ()) -> Float[Array, "..."]:
    """Draws factors: half of them uniform below 1, half above (nnU-Net's rule), so that (0.7, 1.4) is fair to both.

    Limits on one side of 1 give a plain uniform draw between them.

    Raises:
      ValueError: the limits are not (low, high).
    """
    low, high = limits
    if low > high:
        raise ValueError(f"Limits should be (low, high), but are {tuple(limits)}.")
    side, place = jax.random.split(key)
    factor = jax.random.uniform(place, shape)
    if low >= 1 or high <= 1:
        return low + (high - low) * factor
    return jnp.where(chance(side, 0.5, shape), low + (1 - low) * factor, 1 + (high - 1) * factor)


def uniform(key: Array, limits: tuple[float, float], shape: Sequence[int] = ()) -> Float[Array, "..."]:
    """Draws uniformly between (low, high)."""
    low, high = limits
    return low + (high - low) * jax.random.uniform(key, shape)


def spatial_axes(image: Float[Array, "*S C"]) -> tuple[int, ...]:
    """Returns the axes of `*S`."""
    return tuple(range(image.ndim - 1))


def reads(raw: Callable[..., tuple[int, ...]]) -> Callable[[Any], Any]:
    """Marks a transform that needs a larger input than it returns: `raw(patch_size, **its options)` is that size."""

    def mark(function: Any) -> Any:
        function.input_size = raw
        return function

    return mark
