"""Connected components on the device: minimum labels that meet, hook and jump, in a loop of logarithmic length."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped


def connected_components(mask: Shaped[Array | np.ndarray, "*S"], *, connectivity: int = 1) -> Int[Array, "*S"]:
    """Numbers the connected parts of a mask 1..n in the order of their first voxel; 0 outside the mask.

    The numbers equal `scipy.ndimage.label`'s; their count is the maximum. Every voxel points to a voxel of its
    component with a smaller or equal flat index. Each round, roots hook onto the smallest root next to any of their
    voxels, and pointers are halved, until nothing changes (Zhang, Azad and Hu 2020, FastSV). Long thin snakes take a
    logarithmic number of rounds, where plain propagation needs one round a voxel.

    Args:
      mask: True inside; other types count as True where they are not zero.
      connectivity: two voxels touch if they are neighbours that differ along at most this many axes: 1 is the cross
        (4 neighbours in 2D, 6 in 3D), `mask.ndim` all of them (8, 26).

    Raises:
      ValueError: `connectivity` is not in 1..ndim.
    """
    mask = jnp.asarray(mask) != 0
    if not 1 <= connectivity <= mask.ndim:
        raise ValueError(f"connectivity should lie in 1..{mask.ndim} for {mask.ndim} axes, but is {connectivity}.")
    if mask.size == 0:
        return jnp.zeros(mask.shape, jnp.int32)
    return _label(mask, connectivity=connectivity)


@functools.partial(jax.jit, static_argnames="connectivity")  # so that a call outside jit compiles its loop only once
def _label(mask: Bool[Array, "*S"], *, connectivity: int) -> Int[Array, "*S"]:
    shape, outside = (
        mask.shape,
        mask.size,
    )  # `outside` is the pointer of whatever is not in the mask, and points to itself
    index = jnp.arange(outside + 1, dtype=jnp.int32)
    inside = jnp.append(mask.reshape(-1), False)
    offsets = _half_neighbourhood(mask.ndim, connectivity)

    def one_round(carry):
        parent, _ = carry
        grand = parent[parent]
        near = _neighbour_minimum(grand[:-1].reshape(shape), offsets, outside).reshape(-1)
        near = jnp.append(near, outside)
        hooked = parent.at[parent].min(near)  # a tree follows its luckiest voxel
        hooked = jnp.minimum(jnp.minimum(hooked, near), grand)
        hooked = jnp.where(inside, hooked, outside)
        return hooked, jnp.any(hooked != parent)

    start = (jnp.where(inside, index, outside), jnp.bool_(True))
    parent, _ = jax.lax.while_loop(lambda carry: carry[1], one_round, start)
    number = jnp.cumsum((parent == index) & inside, dtype=jnp.int32)  # roots are first voxels: count them in order
    return jnp.where(inside, number[parent], 0)[:-1].reshape(shape)


def _half_neighbourhood(ndim: int, connectivity: int) -> list[tuple[int, ...]]:
    """One of each pair of opposite steps to a neighbour."""
    steps = itertools.product((-1, 0, 1), repeat=ndim)
    return [step for step in steps if 0 < sum(map(abs, step)) <= connectivity and step > (0,) * ndim]


def _neighbour_minimum(labels: Int[Array, "*S"], offsets: list[tuple[int, ...]], outside: int) -> Int[Array, "*S"]:
    """The smallest label of a voxel and its neighbours; `outside` stands beyond the edge."""
    padded = jnp.pad(labels, 1, constant_values=outside)
    least = labels
    for offset in offsets:
        for sign in (1, -1):
            window = tuple(slice(1 + sign * o, 1 + sign * o + n) for o, n in zip(offset, labels.shape))
            least = jnp.minimum(least, padded[window])
    return least
