"""Sampling an image at arbitrary points: affine and elastic coordinates, linear and nearest interpolation.

Everything here is for one sample, with static shapes; `jax.vmap` gives batches. Coordinates are indices into the image
(the centre of the first voxel is 0), and they pull: the output at a point is the input at that point's coordinate.
"""

import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num


def affine_matrix(
    angles: Float[Array, ""] | Float[Array, "1"] | Float[Array, "3"] | float,
    scale: Float[Array, ""] | Float[Array, "n"] | float = 1.0,
) -> Float[Array, "n n"]:
    """Returns the matrix that takes an offset from the centre in the output to the offset in the input.

    Args:
      angles: radians. One number turns 2D images; three turn 3D ones about axis 0, 1 and 2, axis 2 first. A quarter
        turn about an axis is `np.rot90` over the two other axes in their order.
      scale: the offsets' factor, one for all axes or one an axis. Above 1 more of the input is seen and objects shrink.

    Raises:
      ValueError: the number of angles is neither 1 nor 3.
    """
    angles = jnp.atleast_1d(jnp.asarray(angles, jnp.float32))
    if angles.shape not in {(1,), (3,)}:
        raise ValueError(f"affine_matrix expects 1 angle (2D) or 3 angles (3D), but got shape {angles.shape}.")
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if angles.size == 1:
        matrix = _plane_rotation(2, (0, 1), cosine[0], sine[0])
    else:
        planes = ((1, 2), (0, 2), (0, 1))
        first, second, third = (_plane_rotation(3, plane, cosine[a], sine[a]) for a, plane in enumerate(planes))
        # Accelerators multiply matrices in bfloat16 unless told not to; that would move voxels.
        product = jnp.matmul(second, third, precision=jax.lax.Precision.HIGHEST)
        matrix = jnp.matmul(first, product, precision=jax.lax.Precision.HIGHEST)
    return matrix * jnp.asarray(scale, jnp.float32)


def _plane_rotation(n: int, plane: tuple[int, int], cosine, sine) -> Float[Array, "n n"]:
    a, b = plane
    matrix = jnp.eye(n, dtype=jnp.float32)
    return matrix.at[[a, a, b, b], [a, b, a, b]].set(jnp.stack([cosine, sine, -sine, cosine]))


def identity_coordinates(size: Sequence[int]) -> Float[Array, "*S n"]:
    """Returns each voxel's own index."""
    return affine_coordinates(jnp.eye(len(size)), size)


def affine_coordinates(
    matrix: Float[Array, "n n"], size: Sequence[int], *, center: Sequence[float] | None = None
) -> Float[Array, "*S n"]:
    """Returns where an output of `size` reads its input, for a linear map about a centre.

    With the identity matrix and a centre that lies on the same half of a voxel as the output's, the coordinates are
    exact whole numbers, and sampling returns the input bit by bit.

    Args:
      matrix: offset in the output -> offset in the input (see `affine_matrix`).
      size: the output's size.
      center: the input coordinate that the middle of the output reads; the middle of `size` by default.

    Raises:
      ValueError: matrix, size and centre do not belong to the same number of axes.
    """
    n = len(size)
    center = [(length - 1) / 2 for length in size] if center is None else center
    if matrix.shape != (n, n) or len(center) != n:
        raise ValueError(f"Size {tuple(size)} expects a ({n}, {n}) matrix, but it is {matrix.shape}; center {center}.")
    ramps = []
    for axis, length in enumerate(size):
        offset = np.arange(length, dtype=np.float32) - np.float32((length - 1) / 2)
        ramps.append(jnp.asarray(offset.reshape([-1 if a == axis else 1 for a in range(n)])))
    # Sums of ramps instead of a matrix product: exact in float32 everywhere, and fused into the gather.
    rows = [center[a] + sum(matrix[a, b] * ramps[b] for b in range(n)) for a in range(n)]
    return jnp.stack(rows, axis=-1)


def displacement(coarse: Float[Array, "*G n"], size: Sequence[int], *, order: int = 3) -> Float[Array, "*S n"]:
    """Returns a smooth field from vectors on a coarse grid whose outer points lie on the outer voxels.

    Args:
      coarse: one vector (voxels) a grid point.
      size: the field's size.
      order: 1 linear, 3 cubic (Keys 1981, a = -1/2: through the points, continuous slope).

    Raises:
      ValueError: the order is another, or the grid has another number of axes than `size`.
    """
    if coarse.ndim != len(size) + 1:
        raise ValueError(f"A field of size {tuple(size)} needs {len(size)} grid axes, but the grid is {coarse.shape}.")
    field = coarse
    for axis, length in enumerate(size):
        matrix = jnp.asarray(interpolation_matrix(length, coarse.shape[axis], order=order))
        product = jnp.tensordot(matrix, field, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
        field = jnp.moveaxis(product, 0, axis)
    return field


def interpolation_matrix(length: int, points: int, *, order: int) -> np.ndarray:
    """Returns the (length, points) weights that interpolate `points` values, spread end to end, at `length` voxels.

    Raises:
      ValueError: the order is neither 1 nor 3.
    """
    if order not in (1, 3):
        raise ValueError(f"The order of interpolation should be 1 or 3, but is {order}.")
    position = np.arange(length) * ((points - 1) / max(length - 1, 1))
    left = np.clip(np.floor(position), 0, max(points - 2, 0)).astype(int)
    matrix = np.zeros((length, points), np.float32)
    for tap in (0, 1) if order == 1 else (-1, 0, 1, 2):
        weight = _kernel(np.abs(position - left - tap), order)
        np.add.at(matrix, (np.arange(length), np.clip(left + tap, 0, points - 1)), weight)
    return matrix


def _kernel(distance: np.ndarray, order: int) -> np.ndarray:
    if order == 1:
        return np.maximum(1 - distance, 0)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def sample(
    image: Num[Array | np.ndarray, "*S C"],
    coordinates: Float[Array | np.ndarray, "*T n"],
    *,
    order: int = 1,
    fill: float = 0.0,
) -> Num[Array, "*T C"]:
    """Returns the image at the coordinates.

    The image is as if continued by `fill` on all sides, and interpolation reaches into it (scipy's "grid-constant",
    torch's `padding_mode="zeros"`).

    Args:
      image: one image, channels last. With order 0 integers stay integers.
      coordinates: indices along each of the n axes.
      order: 0 nearest (halves go up), 1 linear.
      fill: the value outside.

    Raises:
      ValueError: the order is another, or coordinates and image differ in axes.
    """
    _check(image.ndim - 1, coordinates)
    flat, strides = _flatten(image, fill)
    if order == 0:
        return _take(flat, _nearest_index(coordinates, image.shape[:-1], strides))
    if order != 1:
        raise ValueError(f"The order of interpolation should be 0 or 1, but is {order}.")
    corners = _corners(coordinates, image.shape[:-1], strides)
    return sum(weight[..., None] * _take(flat, index) for index, weight in corners).astype(image.dtype)


def sample_labels(
    label: Integer[Array | np.ndarray, "*S"],
    coordinates: Float[Array | np.ndarray, "*T n"],
    *,
    interpolation: str = "nearest",
    fill: int = 0,
) -> Integer[Array, "*T"]:
    """Returns the label map at the coordinates; only values that the map has (and `fill`) come out.

    Args:
      label: integers; -1 (ignore) is a value like the others.
      coordinates: indices along each of the n axes.
      interpolation: "nearest", or "linear": each class's indicator is interpolated linearly and the largest wins, the
        smaller id on a tie (nnU-Net's way, smoother borders). Only the classes at a point's 2^n corners can win, so the
        corners vote, and the cost does not depend on the number of classes.
      fill: the value outside.

    Raises:
      ValueError: another interpolation, or coordinates and label differ in axes.
    """
    if interpolation == "nearest":
        return sample(label[..., None], coordinates, order=0, fill=fill)[..., 0]
    if interpolation != "linear":
        raise ValueError(f"The interpolation of labels should be 'nearest' or 'linear', but is {interpolation!r}.")
    _check(label.ndim, coordinates)
    flat, strides = _flatten(label[..., None], fill)
    corners = _corners(coordinates, label.shape, strides)
    values = [_take(flat, index)[..., 0] for index, _ in corners]
    votes = [
        functools.reduce(operator.add, (jnp.where(other == value, w, 0.0) for other, (_, w) in zip(values, corners)))
        for value in values
    ]
    winner, best = values[0], votes[0]
    for value, share in zip(values[1:], votes[1:]):
        wins = (share > best) | ((share == best) & (value < winner))
        winner, best = jnp.where(wins, value, winner), jnp.where(wins, share, best)
    return winner


def _check(n: int, coordinates) -> None:
    if coordinates.shape[-1] != n:
        raise ValueError(f"An image of {n} axes needs coordinates with {n} numbers, but got {coordinates.shape[-1]}.")


def _flatten(image, fill):
    """Returns the image with one voxel of `fill` on each side as (voxels, C), and the strides of its axes."""
    size = [n + 2 for n in image.shape[:-1]]
    if int(np.prod(size)) > np.iinfo(np.int32).max:
        raise ValueError(f"An image of size {image.shape[:-1]} has more voxels than 32-bit indices can count.")
    padded = jnp.pad(image, [(1, 1)] * len(size) + [(0, 0)], constant_values=fill)
    return padded.reshape(-1, image.shape[-1]), [int(np.prod(size[axis + 1 :])) for axis in range(len(size))]


def _clip(coordinates, size):
    """Returns the coordinates in the padded image, axis by axis; what lies farther out comes to rest on the padding."""
    return [jnp.clip(coordinates[..., axis] + 1, 0, length + 1) for axis, length in enumerate(size)]


def _nearest_index(coordinates, size, strides):
    whole = _clip(jnp.floor(coordinates + 0.5), size)
    return sum(position.astype(jnp.int32) * stride for position, stride in zip(whole, strides))


def _corners(coordinates, size, strides):
    """Returns the 2^n (index, weight) pairs around each point."""
    positions = _clip(coordinates, size)
    lower = [jnp.minimum(jnp.floor(position), length) for position, length in zip(positions, size)]
    fraction = [position - below for position, below in zip(positions, lower)]
    index = sum(below.astype(jnp.int32) * stride for below, stride in zip(lower, strides))
    pairs = []
    for corner in itertools.product((0, 1), repeat=len(size)):
        weight = 1.0
        for bit, part in zip(corner, fraction):
            weight = weight * (part if bit else 1 - part)
        pairs.append((index + sum(bit * stride for bit, stride in zip(corner, strides)), weight))
    return pairs


def _take(flat, index):
    return flat.at[index].get(mode="promise_in_bounds")
