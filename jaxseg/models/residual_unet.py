"""The U-Net of strided residual units that MONAI calls UNet, 2D and 3D.

Sources: Kerfoot et al. 2018 (left-ventricle quantification with residual units); MONAI 1.6.
Parameter names: `encoder_0`, `bottom`, `decoder_0_up`, `decoder_0`, each with `unit_0`, ... and, where size or channels
change, `residual`; the number is the level, 0 the finest. Encoder level 0 is strided already: its output, and so the
finest skip, has the image's size over the first stride. `bottom` keeps the size of the deepest level. `decoder_0` has
`num_classes` channels at the image's size: its convolution gives the logits, there is no other head.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxseg.models import layers


class ResidualUNet(nn.Module):
    """MONAI's UNet in 2D or 3D. Per-level fields go from the finest level down.

    Attributes:
      ndim: spatial axes, 2 or 3.
      num_classes: channels of the logits.
      features: channels of each encoder level, then of the bottom (MONAI: `channels`).
      strides: into each encoder level (and out of its decoder level), one entry fewer than `features`, each one number
        or one an axis.
      num_res_units: convolutions of an encoder level's residual unit; 0: plain convolutions, no residual units.
      kernel: size of the convolutions, one number or one an axis, odd.
      up_kernel: size of the transposed convolutions, alike and not below the strides.
      norm: "instance" (without scale and bias, MONAI's default), "instance_affine" (with them), "batch", "group" (8
        groups, which must divide `num_classes` too) or "none".
      activation: "prelu_shared" (one learnt slope a layer), "prelu", "relu", "leaky_relu" or "elu".
      conv_bias: biases in all convolutions.
      dropout: rate between normalisation and activation when training (needs the "dropout" key).
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    ndim: int = 2
    num_classes: int = 2
    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    strides: tuple[Any, ...] = (2, 2, 2, 2)
    num_res_units: int = 2
    kernel: Any = 3
    up_kernel: Any = 3
    norm: str = "instance"
    activation: str = "prelu_shared"
    conv_bias: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def level_strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides into each encoder level, one number an axis."""
        return tuple(self._per_axis(stride, "strides") for stride in self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        steps = (1,) * self.ndim
        for stride in self.level_strides:
            steps = tuple(step * s for step, s in zip(steps, stride))
        return steps

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"features": skip and upsampled input of the finest decoder level, joined}`.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        self._check_fields()
        layers.check_rank("ResidualUNet", image, self.ndim)
        layers.check_divisible("ResidualUNet", image, self.divisor)
        x, skips, strides = image.astype(self.dtype), [], self.level_strides
        for level, stride in enumerate(strides):
            x = self._down(x, self.features[level], stride, f"encoder_{level}", train)
            skips.append(x)
        x = joined = self._down(x, self.features[-1], (1,) * self.ndim, "bottom", train)
        for level in reversed(range(len(strides))):
            joined = jnp.concatenate([skips[level], x], axis=-1)
            features = self.features[level - 1] if level else self.num_classes
            x = self._up(joined, features, strides[level], level, train)
        return x.astype(jnp.float32), {"features": joined}

    def _down(self, x: Array, features: int, strides: tuple[int, ...], name: str, train: bool) -> Array:
        kernel = self._per_axis(self.kernel, "kernel")
        if not self.num_res_units:
            return ConvolutionUnit(features, kernel, strides, name=name, **self._unit_fields())(x, train)
        units = self.num_res_units
        return ResidualUnit(features, kernel, strides, units, self._unit_fields(), name=name)(x, train)

    def _up(self, x: Array, features: int, strides: tuple[int, ...], level: int, train: bool) -> Array:
        # The finest level ends in the logits: no normalisation and no activation behind its last convolution.
        kernel, up_kernel = self._per_axis(self.kernel, "kernel"), self._per_axis(self.up_kernel, "up_kernel")
        bare, name = level == 0, f"decoder_{level}"
        fields = {**self._unit_fields(), "transposed": True, "bare": bare and not self.num_res_units}
        x = ConvolutionUnit(features, up_kernel, strides, name=f"{name}_up", **fields)(x, train)
        if not self.num_res_units:
            return x
        ones = (1,) * self.ndim
        return ResidualUnit(features, kernel, ones, 1, self._unit_fields(), bare, name=name)(x, train)

    def _unit_fields(self) -> dict[str, Any]:
        return {
            "use_bias": self.conv_bias,
            "norm": self.norm,
            "activation": self.activation,
            "dropout": self.dropout,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }

    def _per_axis(self, value: Any, field: str) -> tuple[int, ...]:
        values = (value,) * self.ndim if isinstance(value, int) else tuple(value)
        if len(values) != self.ndim or min(values) < 1:
            raise ValueError(
                f"ResidualUNet.{field} holds positive numbers, or {self.ndim} of them for its axes; it has {value}."
            )
        return values

    def _check_fields(self) -> None:
        levels = len(self.features) - 1
        if levels < 1 or len(self.strides) != levels:
            raise ValueError(
                f"ResidualUNet.strides needs one entry fewer than features {self.features}; it is {self.strides}."
            )
        for field in ("kernel", "up_kernel"):
            if any(size % 2 == 0 for size in self._per_axis(getattr(self, field), field)):
                raise ValueError(f"ResidualUNet.{field} should be odd; it is {getattr(self, field)}.")


class ResidualUnit(nn.Module):
    """`count` convolution units, of which the first is strided, plus the input: a sum, not activated.

    The input passes a convolution `residual` of the same size where the unit is strided, 1x1 where only the channels
    change, none where neither does. `unit` holds the fields that all ConvolutionUnits share.
    """

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    count: int
    unit: dict[str, Any]
    bare: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        y, ones = x, (1,) * len(self.strides)
        for i in range(self.count):
            strides, bare = (self.strides if i == 0 else ones), self.bare and i == self.count - 1
            y = ConvolutionUnit(self.features, self.kernel, strides, bare=bare, name=f"unit_{i}", **self.unit)(y, train)
        strided = self.strides != ones
        if strided or x.shape[-1] != self.features:
            x = layers.Conv(
                features=self.features,
                kernel=self.kernel if strided else ones,
                strides=self.strides,
                use_bias=self.unit["use_bias"],
                kernel_init=layers.he_normal(0.25),
                dtype=self.unit["dtype"],
                name="residual",
            )(x)
        return y + x


class ConvolutionUnit(nn.Module):
    """Convolution `conv` (or a transposed one), normalisation `norm`, dropout, activation; `bare`: the first alone."""

    features: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    transposed: bool = False
    bare: bool = False
    use_bias: bool = True
    norm: str = "instance"
    activation: str = "prelu_shared"
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        shared = {
            "features": self.features,
            "kernel": self.kernel,
            "strides": self.strides,
            "use_bias": self.use_bias,
            "kernel_init": layers.he_normal(0.25),
            "dtype": self.dtype,
            "name": "conv",
        }
        if self.transposed:
            # these paddings make the output exactly the input's size times the strides
            padding, beyond = tuple((k - 1) // 2 for k in self.kernel), tuple(s - 1 for s in self.strides)
            x = layers.ConvTranspose(padding=padding, output_padding=beyond, **shared)(x)
        else:
            x = layers.Conv(**shared)(x)
        if self.bare:
            return x
        if self.norm == "instance":
            x = instance_norm(x)
        else:
            kind = self.norm.removesuffix("_affine")
            normalise = layers.norm_layer(kind, train=train, axis_name=self.axis_name, dtype=self.dtype)
            x = normalise(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return layers.activation(self.activation)(x)


def instance_norm(x: Float[Array, "B *S C"], *, epsilon: float = layers.EPSILON) -> Float[Array, "B *S C"]:
    """Each channel of each sample at mean 0 and variance 1 over space (float32 statistics), with no parameters."""
    values, space = x.astype(jnp.float32), tuple(range(1, x.ndim - 1))
    centred = values - values.mean(space, keepdims=True)
    variance = jnp.square(centred).mean(space, keepdims=True)
    return (centred * lax.rsqrt(variance + epsilon)).astype(x.dtype)
