"""Building blocks: convolutions on `ops.conv`, normalisations with float32 statistics, the blocks of the U-Nets.

Parameters are float32; `dtype` is the type a layer computes in. Every layer has an explicit name.
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

LEAKY_SLOPE = 0.01
EPSILON = 1e-5
ACTIVATIONS = {
    "relu": nn.relu,
    "leaky_relu": lambda x: nn.leaky_relu(x, LEAKY_SLOPE),
}
NORMS = ("instance", "group", "batch", "none")


def he_normal(slope: float = LEAKY_SLOPE, *, fan_in: Callable[[tuple[int, ...]], int] | None = None) -> Callable:
    """Normal weights of variance `2 / ((1 + slope**2) * fan_in)` (He et al. 2015).

    `fan_in` counts from a kernel's shape `(*k, I, O)`; None: taps times input channels.
    """

    def init(key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        summed = math.prod(shape[:-1]) if fan_in is None else fan_in(shape)
        # Drawn flat: on CPU the same draw in five dimensions takes XLA 20 times as long to compile.
        values = jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
        return values * math.sqrt(2 / ((1 + slope**2) * summed))

    return init


class Conv(nn.Module):
    """Convolution with PyTorch's padding; parameters `kernel` and `bias`."""

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | int = 1
    padding: Any = "same"
    dilation: tuple[int, ...] | int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable = he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *T O"]:
        shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = ops.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return _add_bias(self, y)


class ConvTranspose(nn.Module):
    """Transposed convolution whose kernel equals its stride; parameters `kernel` `(*strides, C, O)` and `bias`."""

    features: int
    strides: tuple[int, ...]
    use_bias: bool = True
    kernel_init: Callable = he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *T O"]:
        shape = (*self.strides, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return _add_bias(
            self, ops.conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype), strides=self.strides)
        )


def _add_bias(layer: nn.Module, y: Array) -> Array:
    if not layer.use_bias:
        return y
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,), jnp.float32)
    return y + _row(bias.astype(y.dtype), y)


def _row(values: Float[Array, " C"], like: Array) -> Array:
    return values.reshape((1,) * (like.ndim - 1) + (-1,))


class GroupNorm(nn.Module):
    """Normalises groups of channels of each sample over space; `groups=None`: each channel alone (instance norm).

    Statistics are float32 and taken in two passes (mean, then squared distance from it).

    Raises:
      ValueError: the groups do not divide the channels.
    """

    groups: int | None = 8
    epsilon: float = EPSILON
    scale_init: Callable = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        channels = x.shape[-1]
        groups = self.groups or channels
        if channels % groups:
            raise ValueError(f"Group normalisation in {groups} groups needs channels divisible by it; got {channels}.")
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        values = x.astype(jnp.float32)
        if groups == channels:
            mean, variance = _moments(values, tuple(range(1, x.ndim - 1)))
        else:
            grouped = values.reshape(*x.shape[:-1], groups, channels // groups)
            moments = _moments(grouped, (*range(1, x.ndim - 1), x.ndim))
            mean, variance = (
                jnp.broadcast_to(m, (*m.shape[:-1], channels // groups)).reshape(*m.shape[:-2], channels)
                for m in moments
            )
        factor = lax.rsqrt(variance + self.epsilon) * _row(scale, x)
        return ((values - mean) * factor + _row(bias, x)).astype(self.dtype)


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axes, keepdims=True)


def norm_layer(kind: str, *, train: bool, zero_scale: bool = False, axis_name: str | None = None, dtype=jnp.float32):
    """Returns a normalisation called "norm", as a function.

    Args:
      kind: "instance", "group" (8 groups), "batch" (momentum 0.9 on the running statistics) or "none".
      train: batch norm takes the batch's statistics and updates the running ones; the others do not care.
      zero_scale: start the scale at 0, so that a residual block begins as its skip.
      axis_name: mapped axis (pmap) over whose devices batch statistics are averaged.

    Raises:
      ValueError: an unknown kind.
    """
    scale_init = nn.initializers.zeros if zero_scale else nn.initializers.ones
    if kind == "none":
        return lambda x: x
    if kind in ("instance", "group"):
        return GroupNorm(groups=8 if kind == "group" else None, scale_init=scale_init, dtype=dtype, name="norm")
    if kind == "batch":
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=EPSILON,
            use_fast_variance=False,
            scale_init=scale_init,
            axis_name=axis_name,
            dtype=dtype,
            name="norm",
        )
    raise ValueError(f"norm should be one of {', '.join(NORMS)}; it is {kind!r}.")


def activation(name: str) -> Callable[[Array], Array]:
    """The activation called `name`, "none" included.

    Raises:
      ValueError: an unknown name.
    """
    if name == "none":
        return lambda x: x
    if name not in ACTIVATIONS:
        raise ValueError(f"activation should be one of {', '.join(ACTIVATIONS)}; it is {name!r}.")
    return ACTIVATIONS[name]


class ConvBlock(nn.Module):
    """Convolution `conv`, normalisation `norm`, activation."""

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | int = 1
    padding: Any = "same"
    use_bias: bool = True
    norm: str = "instance"
    activation: str = "leaky_relu"
    zero_scale: bool = False
    kernel_init: Callable = he_normal()
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        x = Conv(
            features=self.features,
            kernel=self.kernel,
            strides=self.strides,
            padding=self.padding,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        options = {"zero_scale": self.zero_scale, "axis_name": self.axis_name, "dtype": self.dtype}
        return activation(self.activation)(norm_layer(self.norm, train=train, **options)(x))


class ResidualBlock(nn.Module):
    """nnU-Net's basic block D: two convolutions and a skip of average pooling, 1x1 convolution and normalisation.

    The skip pools where the block is strided and projects where the channels change. The last normalisation's scale
    starts at 0. `block` holds the fields that all ConvBlocks here share.
    """

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    block: dict[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        linear = {**self.block, "activation": "none"}
        y = ConvBlock(self.features, self.kernel, strides=self.strides, name="conv1", **self.block)(x, train)
        y = ConvBlock(self.features, self.kernel, name="conv2", zero_scale=True, **linear)(y, train)
        skip = ops.average_pool(x, self.strides)
        if x.shape[-1] != self.features:
            ones = (1,) * len(self.kernel)
            skip = ConvBlock(self.features, ones, name="skip", **{**linear, "use_bias": False})(skip, train)
        return activation(self.block["activation"])(y + skip.astype(y.dtype))


def centre_crop(x: Float[Array, "B *S C"], size: Sequence[int]) -> Float[Array, "B *T C"]:
    """Cuts the middle of `size` out of a batch (the 2015 U-Net's skips)."""
    for axis, length in enumerate(size, start=1):
        start = (x.shape[axis] - length) // 2
        x = lax.slice_in_dim(x, start, start + length, axis=axis)
    return x
