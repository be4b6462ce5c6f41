"""Layers of generators and discriminators: normal weights, spectral norm, reflecting borders, norms without parameters.

Conventions of the reference networks (Isola 2017, Zhu 2017, Park 2019): weights N(0, 0.02), leaky ReLU of slope 0.2,
instance norm without scale and shift, a bias wherever no batch norm follows.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import layers

SLOPE = 0.2
FIRST_ITERATIONS = 15  # of the power method when a layer is made, as PyTorch's
TINY = 1e-12
OUTPUTS = ("tanh", "none")


def normal_init(deviation: float = 0.02, *, mean: float = 0.0) -> Callable:
    """Normal weights of one deviation, whatever the layer's size."""

    def init(key, shape: Sequence[int], dtype=jnp.float32) -> Array:
        # Drawn flat: on CPU the same draw in five dimensions takes XLA 20 times as long to compile.
        return mean + deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


class Conv(nn.Module):
    """Convolution; with `spectral` its kernel is divided by an estimate of its largest singular value (Miyato 2018).

    The kernel is read as a matrix (taps times input channels, output channels). One step of the power method a call
    with `train=True` improves the estimate; its vector is the variable `u` of the collection "spectral". With
    `train=False` the vector stays and the collection may be constant. No gradient passes through the vectors.
    """

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | int = 1
    padding: Any = "same"
    use_bias: bool = True
    spectral: bool = False
    kernel_init: Callable = normal_init()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.spectral:
            kernel = kernel / self._largest_singular_value(kernel, train)
        y = ops.conv(x.astype(self.dtype), kernel.astype(self.dtype), strides=self.strides, padding=self.padding)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def _largest_singular_value(self, kernel: Float[Array, "*k C O"], train: bool) -> Float[Array, ""]:
        matrix = kernel.reshape(-1, self.features)
        fixed = lax.stop_gradient(matrix)

        def start() -> Float[Array, " O"]:
            # Any start that is not orthogonal to the answer will do; the kernel's own key is used up.
            u = unit(jax.random.normal(self.make_rng("params"), (self.features,)))
            return lax.fori_loop(0, FIRST_ITERATIONS, lambda _, u: _power_step(fixed, u), u)

        stored = self.variable("spectral", "u", start)
        u = stored.value
        if train and not self.is_initializing():
            u = stored.value = _power_step(fixed, u)
        v = unit(fixed @ u)
        return jnp.maximum(v @ matrix @ u, TINY)


def unit(x: Float[Array, " N"]) -> Float[Array, " N"]:
    """The vector over its length; zeros stay zeros."""
    return x / jnp.maximum(jnp.linalg.norm(x), TINY)


def _power_step(matrix: Float[Array, "I O"], u: Float[Array, " O"]) -> Float[Array, " O"]:
    return unit(matrix.T @ unit(matrix @ u))


def standardise(x: Float[Array, "B *S C"], *, epsilon: float = layers.EPSILON) -> Float[Array, "B *S C"]:
    """Instance norm without parameters: each channel of each sample gets mean 0 and variance 1 over space.

    Float32 statistics in two passes; the result has the type of `x`.
    """
    axes = tuple(range(1, x.ndim - 1))
    values = x.astype(jnp.float32)
    values = values - jnp.mean(values, axes, keepdims=True)
    return (values * lax.rsqrt(jnp.mean(jnp.square(values), axes, keepdims=True) + epsilon)).astype(x.dtype)


def norm(kind: str, *, train: bool, axis_name: str | None = None, dtype=jnp.float32, name: str) -> Callable:
    """A normalisation as a function: "instance" (`standardise`), "batch" (scale N(1, 0.02)), "none".

    Raises:
      ValueError: an unknown kind.
    """
    if kind == "instance":
        return standardise
    if kind == "none":
        return lambda x: x
    if kind != "batch":
        raise ValueError(f"norm should be one of instance, batch, none; it is {kind!r}.")
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=layers.EPSILON,
        use_fast_variance=False,
        scale_init=normal_init(mean=1.0),
        axis_name=axis_name,
        dtype=dtype,
        name=name,
    )


def options_of(network: Any, *, bias: bool = False) -> dict[str, Any]:
    """What a generator's convolutions share: all have a bias, but with batch norm only those that `bias` names."""
    return {"use_bias": bias or network.norm != "batch", "kernel_init": normal_init(), "dtype": network.dtype}


def norm_of(network: Any, name: str, train: bool) -> Callable:
    """The normalisation that a network's fields `norm`, `axis_name` and `dtype` ask for."""
    return norm(network.norm, train=train, axis_name=network.axis_name, dtype=network.dtype, name=name)


def leaky(x: Float[Array, "..."], slope: float = SLOPE) -> Float[Array, "..."]:
    """Leaky ReLU of the slope that GANs use."""
    return nn.leaky_relu(x, slope)


def reflect_pad(x: Float[Array, "B *S C"], width: int) -> Float[Array, "B *T C"]:
    """Continues each spatial axis by its mirror image, the border pixel not repeated.

    Raises:
      ValueError: an axis is not longer than `width`.
    """
    if min(x.shape[1:-1]) <= width:
        raise ValueError(f"Reflecting {width} pixels needs axes of {width + 1} or more; the image is {x.shape[1:-1]}.")
    return jnp.pad(x, [(0, 0), *[(width, width)] * (x.ndim - 2), (0, 0)], mode="reflect")


def finish(x: Float[Array, "B *S C"], output: str) -> Float[Array, "B *S C"]:
    """The image in float32: "tanh" (values from -1 to 1) or "none" (as it is).

    Raises:
      ValueError: an unknown output.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output should be one of {', '.join(OUTPUTS)}; it is {output!r}.")
    x = x.astype(jnp.float32)
    return jnp.tanh(x) if output == "tanh" else x


def check_spatial(ndim: int) -> None:
    """Raises ValueError unless a network is asked for in 2D or 3D."""
    if ndim not in (2, 3):
        raise ValueError(f"ndim should be 2 or 3; it is {ndim}.")
