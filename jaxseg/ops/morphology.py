"""Binary morphology with the cross element: a voxel and its 2 * ndim face neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxseg.ops.components import connected_components


def erode(mask: Bool[Array | np.ndarray, "*S"], *, iterations: int = 1) -> Bool[Array, "*S"]:
    """Keeps the voxels whose face neighbours are all in the mask, `iterations` times; outside the image is background.

    Equals `scipy.ndimage.binary_erosion` with its defaults.
    """
    return _repeat(_erode_once, _as_mask(mask), iterations)


def dilate(mask: Bool[Array | np.ndarray, "*S"], *, iterations: int = 1) -> Bool[Array, "*S"]:
    """Adds the face neighbours of the mask, `iterations` times. Equals `scipy.ndimage.binary_dilation`."""
    return _repeat(_dilate_once, _as_mask(mask), iterations)


def open(mask: Bool[Array | np.ndarray, "*S"], *, iterations: int = 1) -> Bool[Array, "*S"]:
    """Erodes, then dilates: takes away specks and bridges thinner than the element; never adds a voxel."""
    return dilate(erode(mask, iterations=iterations), iterations=iterations)


def close(mask: Bool[Array | np.ndarray, "*S"], *, iterations: int = 1) -> Bool[Array, "*S"]:
    """Dilates, then erodes: fills gaps narrower than the element; never takes a voxel away.

    The dilated mask may grow beyond the image in between, as on an unbounded grid. (scipy's `binary_closing` cuts it
    off there, and so eats away objects that touch the edge.)
    """
    grown = dilate(jnp.pad(_as_mask(mask), iterations), iterations=iterations)
    inner = tuple(slice(iterations, size - iterations) for size in grown.shape)
    return erode(grown, iterations=iterations)[inner]


def border(mask: Bool[Array | np.ndarray, "*S"]) -> Bool[Array, "*S"]:
    """The mask minus its erosion: voxels with a face neighbour outside the mask; outside the image is background."""
    mask = _as_mask(mask)
    return mask & ~_erode_once(mask)


def fill_holes(mask: Bool[Array | np.ndarray, "*S"]) -> Bool[Array, "*S"]:
    """Adds the background that no path over face neighbours joins to the outside of the image.

    Equals `scipy.ndimage.binary_fill_holes` with its defaults, in any number of dimensions.
    """
    numbers = connected_components(jnp.pad(~_as_mask(mask), 1, constant_values=True))
    first, last = numbers.reshape(-1)[0], numbers.reshape(-1)[-1]  # of the rim, which falls in two on a line only
    return ((numbers != first) & (numbers != last))[(slice(1, -1),) * numbers.ndim]


def keep_largest(mask: Bool[Array | np.ndarray, "*S"]) -> Bool[Array, "*S"]:
    """Keeps the connected part (face neighbours) with the most voxels; of several such, the one that comes first."""
    mask = _as_mask(mask)
    if mask.size == 0:
        return mask
    numbers = connected_components(mask)
    counts = jnp.zeros(mask.size + 1, jnp.int32).at[numbers.reshape(-1)].add(1)
    return mask & (numbers == 1 + jnp.argmax(counts[1:]))


def _as_mask(mask: Array | np.ndarray) -> Bool[Array, "*S"]:
    return jnp.asarray(mask) != 0


@functools.partial(jax.jit, static_argnums=(0, 2))  # so that a call outside jit compiles its loop only once
def _repeat(function, mask: Bool[Array, "*S"], iterations: int) -> Bool[Array, "*S"]:
    return jax.lax.fori_loop(0, iterations, lambda _, current: function(current), mask)


def _neighbours(mask: Bool[Array, "*S"]):
    """Yields the mask moved by one voxel both ways along each axis; False comes in from outside."""
    for axis, size in enumerate(mask.shape):
        padded = jnp.pad(mask, [(1, 1) if other == axis else (0, 0) for other in range(mask.ndim)])
        yield jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        yield jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)


def _erode_once(mask: Bool[Array, "*S"]) -> Bool[Array, "*S"]:
    result = mask
    for moved in _neighbours(mask):
        result = result & moved
    return result


def _dilate_once(mask: Bool[Array, "*S"]) -> Bool[Array, "*S"]:
    result = mask
    for moved in _neighbours(mask):
        result = result | moved
    return result
