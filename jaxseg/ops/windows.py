"""Weights for blending overlapping windows."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def gaussian_window(size: Sequence[int], *, sigma_scale: float = 0.125, floor: float = 1e-3) -> Float[Array, "*S"]:
    """A Gaussian bump over a window of `size` voxels, for weighing a window's middle over its rim.

    The centre is `(n - 1) / 2` and sigma `sigma_scale * n` along each axis, the peak about 1 (exactly 1 for odd sizes).
    Weights below `max(smallest weight, floor)` are lifted to it, so that no voxel's weights vanish (MONAI's rule).

    Raises:
      ValueError: a size or sigma is not positive.
    """
    size = tuple(int(n) for n in size)
    if not size or min(size) < 1 or sigma_scale <= 0:
        raise ValueError(f"gaussian_window takes positive sizes and sigma_scale; it got {size} and {sigma_scale}.")
    axes = [jnp.exp(-0.5 * ((jnp.arange(n) - (n - 1) / 2) / (sigma_scale * n)) ** 2) for n in size]
    window = functools.reduce(lambda left, right: left[..., None] * right, axes).astype(jnp.float32)
    return jnp.maximum(window, jnp.maximum(window.min(), floor))


def nnunet_window(size: Sequence[int]) -> Float[Array, "*S"]:
    """The Gaussian bump by which nnU-Net weighs a window: centre `n // 2`, sigma `n / 8`, peak 10, in half precision.

    What half precision rounds to 0 is lifted to the smallest weight that is left. Half precision is part of it: where
    all windows that show a voxel show it at their rim, these small weights decide.

    Raises:
      ValueError: a size is not positive.

    Source: Isensee et al., nnU-Net, Nature Methods 2021, inference.
    """
    size = tuple(int(n) for n in size)
    if not size or min(size) < 1:
        raise ValueError(f"nnunet_window takes positive sizes; it got {size}.")
    axes = [np.exp(-0.5 * ((np.arange(n) - n // 2) / (n / 8)) ** 2) for n in size]
    window = functools.reduce(lambda left, right: left[..., None] * right, axes)
    rounded = (10 * window).astype(np.float16).astype(np.float32)
    return jnp.asarray(np.where(rounded > 0, rounded, rounded[rounded > 0].min()))
