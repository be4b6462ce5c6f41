"""SegResNet: a U-Net of pre-activation residual blocks whose skips are added, not concatenated.

Source: Myronenko 2018 (the winner of BraTS 2018) without its variational autoencoder; settings of MONAI 1.6.
Parameter names: `stem`, `encoder_1_down`, `encoder_0_block_0`, `decoder_0_up`, `decoder_0_block_0`, `head_norm`,
`head`; the number is the resolution level, 0 the finest, in the encoder and the decoder alike.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import layers


class SegResNet(nn.Module):
    """A SegResNet in 2D or 3D; the defaults are MONAI's. Per-level fields go from the finest level down.

    Attributes:
      ndim: spatial axes, 2 or 3.
      num_classes: channels of the logits.
      init_filters: channels of the finest level; every further one has twice as many.
      blocks_down: residual blocks an encoder level.
      blocks_up: residual blocks a decoder level, one entry fewer.
      norm: "group" (8 groups), "instance", "batch" or "none".
      activation: "relu", "leaky_relu" or "elu".
      dropout: rate at which whole channels of a sample are dropped behind the first convolution when training (needs
        the "dropout" key; the paper: 0.2).
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    ndim: int = 3
    num_classes: int = 2
    init_filters: int = 8
    blocks_down: tuple[int, ...] = (1, 2, 2, 4)
    blocks_up: tuple[int, ...] = (1, 1, 1)
    norm: str = "group"
    activation: str = "relu"
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (2 ** (len(self.blocks_down) - 1),) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"features": before the head}`.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        self._check_fields()
        layers.check_rank("SegResNet", image, self.ndim)
        layers.check_divisible("SegResNet", image, self.divisor)
        space = tuple(range(1, self.ndim + 1))
        x = self._conv(self.init_filters, 3, "stem")(image.astype(self.dtype))
        x = nn.Dropout(self.dropout, broadcast_dims=space, deterministic=not train, name="stem_dropout")(x)
        skips = []
        for level, count in enumerate(self.blocks_down):
            if level:
                x = self._conv(2 * x.shape[-1], 3, f"encoder_{level}_down", strides=2)(x)
            x = self._blocks(x, count, f"encoder_{level}", train)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(len(skips))):
            skip = skips[level]
            x = self._conv(skip.shape[-1], 1, f"decoder_{level}_up")(x)
            x = ops.resize(x, skip.shape[1:-1], method="linear") + skip
            x = self._blocks(x, self.blocks_up[level], f"decoder_{level}", train)
        normalise = layers.norm_layer(self.norm, train=train, name="head_norm", **self._shared())
        y = layers.activation(self.activation, name="head_prelu")(normalise(x))
        return layers.logits_head(y, self.num_classes, dtype=self.dtype), {"features": x}

    def _blocks(self, x: Array, count: int, name: str, train: bool) -> Array:
        for i in range(count):
            block = PreActivationBlock(self.norm, self.activation, name=f"{name}_block_{i}", **self._shared())
            x = block(x, train)
        return x

    def _conv(self, features: int, kernel: int, name: str, strides: int = 1) -> layers.Conv:
        size, init = (kernel,) * self.ndim, layers.he_normal(0.0)
        return layers.Conv(features, size, strides, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)

    def _shared(self) -> dict[str, Any]:
        return {"axis_name": self.axis_name, "dtype": self.dtype}

    def _check_fields(self) -> None:
        levels = len(self.blocks_down)
        for field, length in {"blocks_down": levels, "blocks_up": levels - 1}.items():
            counts = getattr(self, field)
            if len(counts) != length or min(counts, default=1) < 1:
                raise ValueError(
                    f"SegResNet.{field} needs {length} positive numbers for {levels} levels; it is {counts}."
                )


class PreActivationBlock(nn.Module):
    """Twice normalisation, activation, convolution (`norm1`, `conv1`, `norm2`, `conv2`), then the input is added."""

    norm: str
    activation: str
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *S C"]:
        y, size, init = x, (3,) * (x.ndim - 2), layers.he_normal(0.0)
        for i in (1, 2):
            shared = {"axis_name": self.axis_name, "dtype": self.dtype}
            y = layers.norm_layer(self.norm, train=train, name=f"norm{i}", **shared)(y)
            y = layers.activation(self.activation, name=f"prelu{i}")(y)
            conv = layers.Conv(x.shape[-1], size, use_bias=False, kernel_init=init, dtype=self.dtype, name=f"conv{i}")
            y = conv(y)
        return x + y
