"""Building blocks: convolutions on `ops.conv`, normalisations with float32 statistics, the blocks of the U-Nets.

Parameters are float32; `dtype` is the type a layer computes in. Every layer has an explicit name.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
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
    "none": lambda x: x,
    "relu": nn.relu,
    "relu6": nn.relu6,
    "elu": nn.elu,
    "leaky_relu": lambda x: nn.leaky_relu(x, LEAKY_SLOPE),
}
NORMS = ("instance", "group", "batch", "frozen_batch", "none")


def fan_out(shape: tuple[int, ...]) -> int:
    """Taps times output channels of a kernel `(*k, I, O)`: what PyTorch's ResNets and VGGs scale their weights by."""
    return math.prod(shape[:-2]) * shape[-1]


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
    """Transposed convolution, by default of a kernel like its stride; parameters `kernel` `(*k, C, O)` and `bias`."""

    features: int
    strides: tuple[int, ...]
    kernel: tuple[int, ...] | None = None
    padding: tuple[int, ...] | int = 0
    output_padding: tuple[int, ...] | int = 0
    use_bias: bool = True
    kernel_init: Callable = he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *T O"]:
        shape = (*(self.kernel or self.strides), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = ops.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
        )
        return _add_bias(self, y)


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


class PReLU(nn.Module):
    """Leaky ReLU with a learnt slope a channel, parameter `slope`, or one for all (He et al. 2015; 0.25 at first)."""

    per_channel: bool = True
    start: float = 0.25

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        shape = (x.shape[-1] if self.per_channel else 1,)
        slope = self.param("slope", nn.initializers.constant(self.start), shape, jnp.float32)
        return jnp.where(x >= 0, x, x * _row(slope.astype(x.dtype), x))


def norm_layer(
    kind: str,
    *,
    train: bool,
    zero_scale: bool = False,
    epsilon: float = EPSILON,
    axis_name: str | None = None,
    dtype=jnp.float32,
    name: str = "norm",
) -> Callable[[Array], Array]:
    """Returns a normalisation, as a function.

    Args:
      kind: "instance", "group" (8 groups; "group32" has 32, and so on), "batch" (momentum 0.9 on the running
        statistics), "frozen_batch" (always the running statistics, which nothing changes) or "none".
      train: batch norm takes the batch's statistics and updates the running ones; the others do not care.
      zero_scale: start the scale at 0, so that a residual block begins as its skip.
      epsilon: added to the variance.
      axis_name: mapped axis (pmap) over whose devices batch statistics are averaged.
      dtype: type of the result.
      name: the layer's.

    Raises:
      ValueError: an unknown kind.
    """
    scale_init = nn.initializers.zeros if zero_scale else nn.initializers.ones
    if kind == "none":
        return lambda x: x
    if kind == "instance" or re.fullmatch(r"group\d*", kind):
        groups = None if kind == "instance" else int(kind.removeprefix("group") or 8)
        return GroupNorm(groups=groups, epsilon=epsilon, scale_init=scale_init, dtype=dtype, name=name)
    if kind in ("batch", "frozen_batch"):
        return nn.BatchNorm(
            use_running_average=not train or kind == "frozen_batch",
            momentum=0.9,
            epsilon=epsilon,
            use_fast_variance=False,
            scale_init=scale_init,
            axis_name=axis_name,
            dtype=dtype,
            name=name,
        )
    raise ValueError(f"norm should be one of {', '.join(NORMS)}; it is {kind!r}.")


def activation(kind: str, *, name: str = "prelu") -> Callable[[Array], Array]:
    """The activation of a kind; "prelu" (a slope a channel) and "prelu_shared" (one) are layers, called `name`.

    Raises:
      ValueError: an unknown kind.
    """
    if kind in ("prelu", "prelu_shared"):
        return PReLU(per_channel=kind == "prelu", name=name)
    if kind not in ACTIVATIONS:
        raise ValueError(f"activation should be one of {', '.join(ACTIVATIONS)}, prelu, prelu_shared; it is {kind!r}.")
    return ACTIVATIONS[kind]


class ConvBlock(nn.Module):
    """Convolution `conv`, normalisation `norm`, activation."""

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] | int = 1
    padding: Any = "same"
    dilation: tuple[int, ...] | int = 1
    groups: int = 1
    use_bias: bool = True
    norm: str = "instance"
    activation: str = "leaky_relu"
    zero_scale: bool = False
    epsilon: float = EPSILON
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
            dilation=self.dilation,
            groups=self.groups,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        normalise = norm_layer(
            self.norm,
            train=train,
            zero_scale=self.zero_scale,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        return activation(self.activation)(normalise(x))


class SeparableConv(nn.Module):
    """A depthwise ("depthwise") and a pointwise ("pointwise") convolution with normalisation and activation.

    Attributes:
      features: output channels.
      kernel: size of the depthwise kernel.
      depthwise_norm: whether the depthwise half has its own normalisation.
      depthwise_activation: the activation behind it ("none": straight on to the pointwise half).
      block: the fields that the two ConvBlocks share.
    """

    features: int
    kernel: tuple[int, ...]
    block: Mapping[str, Any]
    strides: tuple[int, ...] | int = 1
    dilation: tuple[int, ...] | int = 1
    depthwise_norm: bool = True
    depthwise_activation: str = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        channels, shared = x.shape[-1], {**self.block, "use_bias": False}
        first = {**shared, "activation": self.depthwise_activation}
        if not self.depthwise_norm:
            first["norm"] = "none"
        x = ConvBlock(
            channels,
            self.kernel,
            strides=self.strides,
            dilation=self.dilation,
            groups=channels,
            name="depthwise",
            **first,
        )(x, train)
        return ConvBlock(self.features, (1,) * len(self.kernel), name="pointwise", **shared)(x, train)


class ResidualBlock(nn.Module):
    """nnU-Net's basic block D: two convolutions and a skip of average pooling, 1x1 convolution and normalisation.

    The skip pools where the block is strided and projects where the channels change. The last normalisation's scale
    starts at 0. `block` holds the fields that all ConvBlocks here share.
    """

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    block: Mapping[str, Any]

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


def logits_head(x: Float[Array, "B *S C"], num_classes: int, *, kernel: int = 1, dtype=jnp.float32, name: str = "head"):
    """A convolution to float32 logits, as a layer called `name` of the module that calls it."""
    size = (kernel,) * (x.ndim - 2)
    return Conv(num_classes, size, kernel_init=he_normal(0.0), dtype=dtype, name=name)(x).astype(jnp.float32)


def double(x: Float[Array, "B *S C"]) -> Float[Array, "B *T C"]:
    """Repeats every voxel twice along each spatial axis (nearest neighbour, factor 2)."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, 2, axis=axis)
    return x


def check_rank(network: str, image: Array, ndim: int) -> None:
    """Raises ValueError unless the image has a batch axis, `ndim` spatial ones and channels."""
    if image.ndim != ndim + 2:
        raise ValueError(f"A {network} with ndim={ndim} takes (B, *S, C), {ndim + 2} axes; it got {image.shape}.")


def check_divisible(network: str, image: Array, divisor: Sequence[int]) -> None:
    """Raises ValueError unless every spatial axis is divisible by its number; names the axis and the size to pad to."""
    for axis, (size, step) in enumerate(zip(image.shape[1:-1], divisor)):
        if size % step:
            fit = -(-size // step) * step
            raise ValueError(
                f"{network} needs a size divisible by {step} along spatial axis {axis}; it is {size}: pad it to {fit}."
            )


class AttentionGate(nn.Module):
    """Weighs a skip by what the coarser level looks for (Oktay et al. 2018): sigmoid(psi(relu(W_x x + W_g g))) * x.

    `features` are the channels in which the two meet; strides say how much coarser `gate` is than `x`.
    """

    features: int
    strides: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], gate: Float[Array, "B *T G"]) -> Float[Array, "B *S C"]:
        ones = (1,) * (x.ndim - 2)
        options = {"kernel_init": he_normal(0.0), "dtype": self.dtype}
        theta = Conv(self.features, self.strides, strides=self.strides, padding=0, use_bias=False, name="x", **options)
        met = nn.relu(theta(x) + Conv(self.features, ones, name="gate", **options)(gate))
        weight = nn.sigmoid(Conv(1, ones, name="psi", **options)(met).astype(jnp.float32))
        return x * ops.resize(weight, x.shape[1:-1]).astype(x.dtype)


def block_fields(network: nn.Module, **own: Any) -> dict[str, Any]:
    """The fields that all ConvBlocks of a network share: its normalisation, axis and compute type, and `own`."""
    return {"norm": network.norm, "axis_name": network.axis_name, "dtype": network.dtype, **own}


def recomputed(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """A kind of block `(x, train)`, where `remat` says so one whose backward pass computes its inside anew from `x`."""
    return nn.remat(block, static_argnums=(2,)) if remat else block
