"""Between resolutions: a low-resolution image made from a high one, and the plain ways back, axis by axis.

Both grids cover the same extent. With factor f, low voxel j covers the high voxels f j ... f j + f - 1 and its centre
lies at the high index f j + (f - 1) / 2: half-pixel centres, as in `resize`. The spacing of an enlarged axis is the
low one's divided by f, and the first centre moves by -(f - 1) / 2 high voxels.

Every method is linear, so an axis is one matrix, made on the host. Everything is for one image; `jax.vmap` gives
batches.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Real

Image = Real[Array | np.ndarray, "*S C"]
Matrix = Float[np.ndarray, "t s"]
FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations
REACH = 4  # standard deviations at which the Gaussian is cut off


def degrade(
    image: Image, *, factor: int, axes: Sequence[int] | None = None, method: str = "fourier"
) -> Float[Array, "*T C"]:
    """Returns the image that a scanner of a lower resolution would give: `factor` times fewer voxels along the axes.

    "fourier" keeps the central 1 / factor of the discrete Fourier transform (k-space truncation, as in magnetic
    resonance). Edges ring, and opposite borders of the image are neighbours. "gaussian" blurs with a full width at half
    maximum of one low voxel, as a slice profile does, and takes the value at each low centre; outside, the edge value
    continues. Both keep constants. Source: methods.md, section 14.6.

    Args:
      image: one image, 2D or 3D; integers become float32.
      factor: 1 or more; it divides the size of each of the axes.
      axes: spatial axes from 0; all by default. (0,) makes thick slices of a volume.
      method: "fourier" or "gaussian".

    Raises:
      ValueError: a factor that does not divide a size, or an unknown axis or method.
    """
    axes = _checked(image, factor, axes, method, tuple(DEGRADING))
    uneven = [axis for axis in axes if image.shape[axis] % factor]
    if uneven:
        raise ValueError(
            f"degrade by {factor} needs sizes that {factor} divides, but axis {uneven[0]} has "
            f"{image.shape[uneven[0]]} voxels: crop or pad it first."
        )
    return _apply(image, {axis: DEGRADING[method](image.shape[axis], factor) for axis in axes})


def enlarge(
    image: Image, *, factor: int, axes: Sequence[int] | None = None, method: str = "cubic"
) -> Float[Array, "*T C"]:
    """Returns the image with `factor` times more voxels along the axes, by plain interpolation.

    "nearest" repeats voxels. "linear" and "cubic" continue the edge value outside; cubic is the interpolating B-spline
    (Unser 1999), equal to `scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True)`. "fourier" is zero filling,
    what scanners do: periodic sinc interpolation, which undoes `degrade` on a band-limited image; it rings at borders
    that differ from the opposite ones. These are what super-resolution has to beat.

    Args:
      image: one image, 2D or 3D; integers become float32.
      factor: 1 or more.
      axes: spatial axes from 0; all by default.
      method: "nearest", "linear", "cubic" or "fourier".

    Raises:
      ValueError: a factor below 1, or an unknown axis or method.
    """
    axes = _checked(image, factor, axes, method, tuple(ENLARGING))
    return _apply(image, {axis: ENLARGING[method](image.shape[axis], factor) for axis in axes})


def _checked(
    image: Image, factor: int, axes: Sequence[int] | None, method: str, known: tuple[str, ...]
) -> tuple[int, ...]:
    """Returns the axes, once all options are found good."""
    ndim = image.ndim - 1
    chosen = tuple(range(ndim)) if axes is None else tuple(axes)
    if method not in known:
        raise ValueError(f"The method should be one of {', '.join(known)}, not {method!r}.")
    if factor < 1:
        raise ValueError(f"The factor should be 1 or more, not {factor}.")
    if len(set(chosen)) < len(chosen) or not all(0 <= axis < ndim for axis in chosen):
        raise ValueError(f"axes should be different numbers in 0..{ndim - 1}, the spatial axes, not {chosen}.")
    return chosen if factor > 1 else ()


def _apply(image: Image, matrices: dict[int, Matrix]) -> Float[Array, "*T C"]:
    if isinstance(image, np.ndarray):  # on the host: every shape would be compiled for one use
        return jnp.asarray(_on_host(image, matrices))
    dtype = image.dtype if jnp.issubdtype(image.dtype, jnp.floating) else jnp.float32
    out = image.astype(jnp.promote_types(dtype, jnp.float32))
    for axis, matrix in matrices.items():
        weights = jnp.asarray(matrix, out.dtype)
        # Accelerators multiply matrices in bfloat16 unless told not to.
        product = lax.dot_general(weights, out, (((1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST)
        out = jnp.moveaxis(product, 0, axis)
    return out.astype(dtype)


def _on_host(image: Real[np.ndarray, "*S C"], matrices: dict[int, Matrix]) -> Float[np.ndarray, "*T C"]:
    dtype = image.dtype if np.issubdtype(image.dtype, np.floating) else np.dtype(np.float32)
    out = image.astype(np.promote_types(dtype, np.float32))
    for axis, matrix in matrices.items():
        out = np.moveaxis(np.tensordot(matrix.astype(out.dtype), out, axes=(1, axis)), 0, axis)
    return out.astype(dtype)


def _high_centres(size: int, factor: int) -> Float[np.ndarray, " t"]:
    """Returns where the `size * factor` high centres lie, as indices of the low grid."""
    return (np.arange(size * factor) + 0.5) / factor - 0.5


def _low_centres(size: int, factor: int) -> Float[np.ndarray, " t"]:
    """Returns where the `size / factor` low centres lie, as indices of the high grid."""
    return np.arange(size // factor) * float(factor) + (factor - 1) / 2


def _band_limited(centres: Float[np.ndarray, " t"], size: int, band: int) -> Matrix:
    """Returns the values at the centres of the periodic signal with the lowest `band` of its `size` frequencies.

    Of an even band the frequency -band / 2 is kept and +band / 2 is not; the real part shares it between both.
    """
    offset = centres[:, None] - np.arange(size)
    frequency = np.arange(band // 2 + 1)
    weight = np.where((frequency == 0) | (2 * frequency == band), 1.0, 2.0)
    return np.tensordot(np.cos(2 * np.pi / size * offset[..., None] * frequency), weight, axes=1) / size


def _truncated(size: int, factor: int) -> Matrix:
    return _band_limited(_low_centres(size, factor), size, size // factor)


def _blurred(size: int, factor: int) -> Matrix:
    centres, deviation = _low_centres(size, factor), factor / FWHM
    reach = math.ceil(REACH * deviation)
    place = np.floor(centres)[:, None].astype(int) + np.arange(-reach, reach + 2)
    weight = np.exp(-0.5 * np.square((place - centres[:, None]) / deviation))
    return _gathered(place, weight / weight.sum(axis=1, keepdims=True), size)


def _repeated(size: int, factor: int) -> Matrix:
    return np.repeat(np.eye(size), factor, axis=0)


def _linear(size: int, factor: int) -> Matrix:
    centres = _high_centres(size, factor)
    place = np.floor(centres)[:, None].astype(int) + np.arange(2)
    return _gathered(place, 1 - np.abs(place - centres[:, None]), size)


def _cubic(size: int, factor: int) -> Matrix:
    import scipy.ndimage

    # The spline is linear in the samples: enlarging the unit vectors gives its matrix.
    zoomed = scipy.ndimage.zoom(np.eye(size), (factor, 1), order=3, mode="nearest", grid_mode=True)
    return np.asarray(zoomed, np.float64)


def _zero_filled(size: int, factor: int) -> Matrix:
    return _band_limited(_high_centres(size, factor), size, size)


def _gathered(place: np.ndarray, weight: np.ndarray, size: int) -> Matrix:
    """Returns the matrix of weighted sums over voxels, where those outside are the edge's."""
    matrix = np.zeros((len(place), size))
    np.add.at(matrix, (np.arange(len(place))[:, None], np.clip(place, 0, size - 1)), weight)
    return matrix


MatrixFn = Callable[[int, int], Matrix]
_cached: Callable[[MatrixFn], MatrixFn] = functools.lru_cache(maxsize=64)
DEGRADING = {"fourier": _cached(_truncated), "gaussian": _cached(_blurred)}
ENLARGING = {
    "nearest": _cached(_repeated),
    "linear": _cached(_linear),
    "cubic": _cached(_cubic),
    "fourier": _cached(_zero_filled),
}
