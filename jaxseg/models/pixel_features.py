"""The classical baseline as a network: a fixed bank of filters, then a small perceptron at each pixel.

The filters are those of trainable pixel classifiers: ilastik (Sommer, Straehle, Köthe and Hamprecht 2011) and the
Trainable Weka Segmentation (Arganda-Carreras et al. 2017), which put a random forest behind them.
Layers: `norm`, `hidden_1` and so on, `head`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jaxseg import ops
from jaxseg.models import layers

PER_SIGMA = 5  # smoothed, gradient magnitude, Laplacian, and two more invariants of the Hessian
RADIUS = 3.0  # sigmas at which a Gaussian is cut off
SMOOTH = 1e-12  # under roots, so that flat regions have a gradient; far below the square of a visible difference
SLOPE = (-0.5, 0.0, 0.5)  # central difference
CURVATURE = (1.0, -2.0, 1.0)  # second difference


def filter_bank(
    image: Float[Array | np.ndarray, "B *S C"], *, sigmas: Sequence[float] = (0.7, 1.6, 3.5)
) -> Float32[Array, "B *S F"]:
    """Returns the image and five filters of each channel at each sigma: F = C * (1 + 5 * sigmas), filters before C.

    At each sigma: the Gaussian-smoothed image; its gradient magnitude; its Laplacian; and what else the Hessian says.
    In 2D that is its two eigenvalues, the larger one first. In 3D it is the sum of the principal minors and the
    determinant, as signed square and cube root, so that they scale as an eigenvalue does; they are, with the Laplacian
    (the trace), as good as the three eigenvalues, and have a gradient where two of these are equal. Derivatives
    are differences of the smoothed image, times sigma to their order (Lindeberg 1998), so that scales compare. Beyond
    its border an image goes on as it ends. Always float32.

    Args:
      image: with two or three spatial axes.
      sigmas: standard deviations of the Gaussians in voxels.

    Raises:
      ValueError: a sigma that is not positive, or an image of another rank.
    """
    if image.ndim not in (4, 5):
        raise ValueError(f"filter_bank takes (B, *S, C) with 2 or 3 spatial axes; it got {image.shape}.")
    if any(sigma <= 0 for sigma in sigmas):
        raise ValueError(f"sigmas should be positive numbers of voxels; they are {tuple(sigmas)}.")
    return _bank(jnp.asarray(image).astype(jnp.float32), tuple(sigmas))


@functools.partial(jax.jit, static_argnames="sigmas")  # one program outside of jit too, instead of one a filter
def _bank(image: Float32[Array, "B *S C"], sigmas: tuple[float, ...]) -> Float32[Array, "B *S F"]:
    found = [image]
    # Second differences cancel most digits: the rounded products of accelerators would leave noise.
    with jax.default_matmul_precision("highest"):
        for sigma in sigmas:
            found += _filters(image, sigma)
    return jnp.concatenate(found, axis=-1)


def _filters(image: Float32[Array, "B *S C"], sigma: float) -> list[Array]:
    axes = range(1, image.ndim - 1)
    smoothed = image
    for axis in axes:
        smoothed = _along(smoothed, gaussian(sigma), axis)
    slopes = [_along(smoothed, SLOPE, axis) * sigma for axis in axes]
    magnitude = jnp.sqrt(sum(jnp.square(slope) for slope in slopes) + SMOOTH)
    hessian = {(i, i): _along(smoothed, CURVATURE, axis) * sigma**2 for i, axis in enumerate(axes)}
    for i in range(len(axes)):
        for j in range(i + 1, len(axes)):
            hessian[i, j] = _along(slopes[i], SLOPE, axes[j]) * sigma
    laplacian = functools.reduce(jnp.add, (hessian[i, i] for i in range(len(axes))))
    rest = _eigenvalues(hessian) if len(axes) == 2 else _minors_and_determinant(hessian)
    return [smoothed, magnitude, laplacian, *rest]


def gaussian(sigma: float) -> tuple[float, ...]:
    """Samples of a Gaussian out to three sigmas, of sum 1."""
    radius = max(1, int(RADIUS * sigma + 0.5))
    values = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    return tuple(value / sum(values) for value in values)


def _along(x: Float32[Array, "B *S C"], taps: Sequence[float], axis: int) -> Float32[Array, "B *S C"]:
    """Correlates with `taps` along one axis; at either end the last value goes on."""
    radius = len(taps) // 2
    moved = jnp.moveaxis(x, axis, -1)
    rows = moved.reshape(1, -1, moved.shape[-1], 1)  # (1, all other axes, length, 1)
    padded = jnp.pad(rows, [(0, 0), (0, 0), (radius, radius), (0, 0)], mode="edge")
    y = ops.conv(padded, jnp.asarray(taps, jnp.float32).reshape(1, -1, 1, 1), padding="valid")
    return jnp.moveaxis(y.reshape(moved.shape), -1, axis)


def _eigenvalues(hessian: dict[tuple[int, int], Array]) -> tuple[Array, Array]:
    mean, half = (hessian[0, 0] + hessian[1, 1]) / 2, (hessian[0, 0] - hessian[1, 1]) / 2
    root = jnp.sqrt(jnp.square(half) + jnp.square(hessian[0, 1]) + SMOOTH)
    return mean + root, mean - root


def _minors_and_determinant(hessian: dict[tuple[int, int], Array]) -> tuple[Array, Array]:
    (a, b, c), (d, e, f) = (hessian[i, i] for i in range(3)), (hessian[pair] for pair in ((0, 1), (0, 2), (1, 2)))
    minors = a * b - d * d + a * c - e * e + b * c - f * f
    determinant = a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)
    return _signed_root(minors, 2), _signed_root(determinant, 3)


def _signed_root(x: Array, degree: int) -> Array:
    """The root of |x| with the sign of x, made smooth at 0."""
    return x * (jnp.square(x) + SMOOTH) ** ((1 / degree - 1) / 2)


class PixelFeatures(nn.Module):
    """`filter_bank`, normalisation, 1x1 convolutions with ReLU, and a head: a perceptron on each pixel's features.

    Any image size. With batch norm, the running statistics standardise each feature over the training set, so that a
    pixel's scores depend on its neighbourhood only (three of the largest sigma, and one).

    Attributes:
      num_classes: channels of the logits.
      ndim: spatial axes.
      sigmas: of the filters, in voxels.
      features: widths of the hidden layers.
      norm: of the filters' responses, see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what the layers compute in; the filters are float32, parameters and logits too.
    """

    num_classes: int = 2
    ndim: int = 2
    sigmas: tuple[float, ...] = (0.7, 1.6, 3.5)
    features: tuple[int, ...] = (32,)
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"features": the filters' responses}`.

        Raises:
          ValueError: an image of another rank, or a sigma that is not positive.
        """
        layers.check_rank("PixelFeatures", image, self.ndim)
        found = filter_bank(image, sigmas=self.sigmas)
        x = layers.norm_layer(self.norm, train=train, axis_name=self.axis_name, dtype=self.dtype)(found)
        for number, width in enumerate(self.features, start=1):
            x = nn.relu(
                layers.Conv(
                    width,
                    (1,) * self.ndim,
                    kernel_init=layers.he_normal(0.0),
                    dtype=self.dtype,
                    name=f"hidden_{number}",
                )(x)
            )
        return layers.logits_head(x, self.num_classes, dtype=self.dtype), {"features": found}
