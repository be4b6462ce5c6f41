"""Exact Euclidean distance maps on the device, one axis after another, with static shapes."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

# Distance reported where no False voxel exists. Finite, so that products with zero weights stay zero instead of NaN.
FAR_AWAY = 1e6


def distance_transform(
    mask: Shaped[Array | np.ndarray, "*S"], *, spacing: Sequence[float] | None = None
) -> Float[Array, "*S"]:
    """Returns each voxel's distance to the nearest False voxel; 0 outside the mask.

    The squared distance of an n-dimensional grid is a chain of one-dimensional problems,
    `min_j f[j] + (spacing * (i - j))^2` along each axis (Felzenszwalb and Huttenlocher 2012). The longest axis is
    solved by two running scans; the others by comparing all pairs of a line, one source plane at a time, so the work
    is voxels times axis length and the memory a few copies of the volume. Equal to
    `scipy.ndimage.distance_transform_edt` except for a mask without any False voxel: there every voxel gets
    `FAR_AWAY` (1e6), since no distance is defined. True distances must stay below that.

    Args:
      mask: True inside; any number of dimensions. Other types count as True where they are not zero.
      spacing: voxel size along each axis, in array order; 1 along each where None. The result has its unit.

    Raises:
      ValueError: `spacing` has not one entry an axis.
    """
    mask = jnp.asarray(mask) != 0
    spacing = (1.0,) * mask.ndim if spacing is None else tuple(float(step) for step in spacing)
    if len(spacing) != mask.ndim:
        raise ValueError(f"distance_transform needs one spacing an axis: {mask.ndim} axes, spacing {spacing}.")
    return _transform(mask, spacing=spacing)


@functools.partial(jax.jit, static_argnames="spacing")  # so that a call outside jit compiles its loops only once
def _transform(mask: Bool[Array, "*S"], *, spacing: tuple[float, ...]) -> Float[Array, "*S"]:
    if mask.ndim == 0:
        return jnp.where(mask, FAR_AWAY, 0.0).astype(jnp.float32)
    longest, *others = sorted(range(mask.ndim), key=lambda axis: -mask.shape[axis])
    squared = _along_line(mask, axis=longest, step=spacing[longest])
    for axis in others:
        squared = _min_plus(squared, axis=axis, step=spacing[axis])
    return jnp.sqrt(squared)


def _along_line(mask: Bool[Array, "*S"], *, axis: int, step: float) -> Float[Array, "*S"]:
    """Squared distance to the nearest False voxel of the same line, `FAR_AWAY` squared where the line has none."""
    size = mask.shape[axis]
    index = jax.lax.broadcasted_iota(jnp.int32, mask.shape, axis)
    never = 2 * size  # farther than any voxel of the line
    before = index - jax.lax.cummax(jnp.where(mask, -never, index), axis=axis)
    after = jax.lax.cummin(jnp.where(mask, index + never, index), axis=axis, reverse=True) - index
    nearest = jnp.minimum(before, after)
    return jnp.where(nearest < size, jnp.square(step * nearest.astype(jnp.float32)), FAR_AWAY**2)


def _min_plus(squared: Float[Array, "*S"], *, axis: int, step: float) -> Float[Array, "*S"]:
    """`min_j squared[j] + (step * (i - j))^2` along one axis."""
    size = squared.shape[axis]
    if size == 1:
        return squared
    planes = jnp.moveaxis(squared, axis, 0)
    place = jnp.arange(size, dtype=jnp.float32).reshape(size, *[1] * (squared.ndim - 1))

    def through_plane(source, best):
        plane = jax.lax.dynamic_index_in_dim(planes, source, axis=0)
        return jnp.minimum(best, plane + jnp.square(step * (place - source.astype(jnp.float32))))

    # A loop over source planes instead of one (size, *S) broadcast: as fast on CPU, and memory does not grow with size.
    return jnp.moveaxis(jax.lax.fori_loop(0, size, through_plane, planes), 0, axis)
