"""Resizing to any size, axis by axis, by interpolation matrices: the same numbers as PyTorch's `interpolate`."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

CUBIC = -0.75  # the cubic kernel's parameter in PyTorch and OpenCV (jax.image and Pillow take -0.5)


def resize(
    image: Shaped[Array, "B *S C"], size: Sequence[int], *, method: str = "linear", align_corners: bool = False
) -> Shaped[Array, "B *T C"]:
    """Resizes a batch of images to `size` without anti-aliasing.

    Pixel centres are half-pixels: output `t` reads the source at `(t + 0.5) * in / out - 0.5`. With `align_corners` the
    first and last pixels' centres stay in place: `t * (in - 1) / (out - 1)`. Outside, the edge value continues.

    Args:
      image: floats; any dtype with "nearest", such as labels with a channel axis.
      size: one number a spatial axis.
      method: "linear" (bilinear, trilinear), "cubic" (PyTorch's kernel, a = -0.75), or "nearest" (PyTorch's
        "nearest-exact", which takes half-pixel centres too).
      align_corners: only for "linear" and "cubic".

    Raises:
      ValueError: an unknown method, a size of another rank or below 1, or integers with a method that blends.
    """
    size = tuple(int(n) for n in size)
    if len(size) != image.ndim - 2 or min(size) < 1:
        raise ValueError(f"resize takes one positive size for each of {image.ndim - 2} axes; it got {size}.")
    if method == "nearest":
        if align_corners:
            raise ValueError("resize with method 'nearest' has no align_corners; use 'linear' or leave it out.")
        return _nearest(image, size)
    if method not in ("linear", "cubic"):
        raise ValueError(f"resize knows the methods linear, nearest and cubic; it got {method!r}.")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"resize blends floats; the image is {image.dtype}: use method 'nearest' or convert it.")
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    out = image.astype(dtype)
    for axis, length in enumerate(size, start=1):
        if length != image.shape[axis]:
            matrix = jnp.asarray(interpolation_matrix(image.shape[axis], length, method, align_corners), dtype)
            out = _apply(matrix, out, axis)
    return out.astype(image.dtype)


def interpolation_matrix(source: int, target: int, method: str, align_corners: bool) -> np.ndarray:
    """The `(target, source)` float64 matrix of one axis; each row sums to 1."""
    where = np.arange(target, dtype=np.float64)
    if align_corners:
        where = where * ((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        where = (where + 0.5) * (source / target) - 0.5
    if method == "linear":
        where = np.clip(where, 0, source - 1)
    reach = range(2) if method == "linear" else range(-1, 3)
    weight = _triangle if method == "linear" else _cubic
    left = np.floor(where)
    matrix = np.zeros((target, source))
    for step in reach:
        index = np.clip(left + step, 0, source - 1).astype(int)
        np.add.at(matrix, (np.arange(target), index), weight(np.abs(where - left - step)))
    return matrix


def _triangle(distance: np.ndarray) -> np.ndarray:
    return 1 - distance


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) with parameter CUBIC, at distances 0 to 2."""
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, far)


def _apply(matrix: Float[Array, "t s"], x: Array, axis: int) -> Array:
    out = lax.dot_general(matrix, x, (((1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(out, 0, axis)


def _nearest(image: Array, size: tuple[int, ...]) -> Array:
    for axis, length in enumerate(size, start=1):
        source = image.shape[axis]
        if length != source:
            index = np.floor((np.arange(length) + 0.5) * (source / length)).astype(np.int32)
            image = jnp.take(image, np.minimum(index, source - 1), axis=axis)
    return image
