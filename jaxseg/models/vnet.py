"""V-Net: a U-Net of 5x5x5 convolutions in residual blocks, strided instead of pooled; 3D, or 2D with 5x5.

Source: Milletari et al. 2016 and the authors' Caffe network (github.com/faustomilletari/VNet), which the defaults
follow; MONAI 1.6's dialect of it is `monai_vnet`.
Parameter names: `encoder_0_conv_0`, `encoder_1_down`, `encoder_1_conv_0`, `encoder_1_prelu` (behind the block's sum),
`decoder_0_up`, `decoder_0_conv_0`, `decoder_0_prelu`, `head_conv`, `head`; the number is the resolution level, 0 the
finest, in the encoder and the decoder alike.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import layers

KERNEL = 5


def average_fan(shape: tuple[int, ...]) -> int:
    """The mean of a kernel's fan-in and fan-out: what the authors' Caffe filler scales weights by."""
    return math.prod(shape[:-2]) * (shape[-2] + shape[-1]) // 2


class VNet(nn.Module):
    """A V-Net in 2D or 3D; the defaults are the authors' network. Per-level fields go from the finest level down.

    Attributes:
      ndim: spatial axes, 2 or 3.
      num_classes: channels of the logits.
      features: channels an encoder level; a decoder level has twice those of its skip.
      encoder_convs: convolutions a level.
      decoder_convs: convolutions a decoder level, one entry fewer. The paper's figure has (1, 2, 3, 3, 3) and
        (1, 2, 3, 3), MONAI (1, 1, 2, 3, 2) and (1, 1, 2, 2).
      norm: after every convolution: "none" as in 2016, "batch", "instance" or "group" (8 groups, but not on the
        `num_classes` channels of the head's first convolution).
      activation: "prelu" (a slope a channel), "prelu_shared", "elu", "relu" or "leaky_relu".
      tile_image: the finest level adds the image with its channels repeated, where its features are a multiple of them
        (2016, MONAI); without it, as where they are not, a 1x1x1 convolution `encoder_0_skip` of the image.
      activate_before_add: whether a block's last convolution is activated before the block's input is added, as it is
        after; the finest encoder level never is (MONAI).
      conv_bias: biases in the 5x5x5 and the strided convolutions; the transposed ones and the last always have them.
      dropout: rate at which whole channels of a sample are dropped when training (needs the "dropout" key): of every
        skip, of the input of the last two encoder and of the first two decoder blocks (MONAI: 0.5).
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    ndim: int = 3
    num_classes: int = 2
    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    encoder_convs: tuple[int, ...] = (1, 1, 2, 3, 3)
    decoder_convs: tuple[int, ...] = (1, 1, 2, 3)
    norm: str = "none"
    activation: str = "prelu"
    tile_image: bool = True
    activate_before_add: bool = False
    conv_bias: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (2 ** (len(self.features) - 1),) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"features": before the head}`.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        self._check_fields()
        layers.check_rank("VNet", image, self.ndim)
        layers.check_divisible("VNet", image, self.divisor)
        skips = self._encode(image.astype(self.dtype), train)
        x = skips.pop()
        for level in reversed(range(len(skips))):
            x = self._decode_level(x, skips[level], level, train)
        return self._head(x, train), {"features": x}

    def _encode(self, image: Array, train: bool) -> list[Array]:
        features = self.features[0]
        if features % image.shape[-1] or not self.tile_image:
            tiled = self._conv(features, 1, "encoder_0_skip", norm="none", activation="none")(image, train)
        else:
            tiled = jnp.tile(image, (1,) * (self.ndim + 1) + (features // image.shape[-1],))
        outputs = [self._block(image, tiled, features, self.encoder_convs[0], "encoder_0", train)]
        for level, features in enumerate(self.features[1:], start=1):
            down = self._conv(features, 2, f"encoder_{level}_down", strides=2, padding="valid")(outputs[-1], train)
            x = self._dropout(down, f"encoder_{level}_dropout", train) if level >= len(self.features) - 2 else down
            outputs.append(self._block(x, down, features, self.encoder_convs[level], f"encoder_{level}", train))
        return outputs

    def _decode_level(self, x: Array, skip: Array, level: int, train: bool) -> Array:
        name = f"decoder_{level}"
        if level >= len(self.features) - 3:
            x = self._dropout(x, f"{name}_dropout", train)
        skip = self._dropout(skip, f"{name}_skip_dropout", train)
        up = layers.ConvTranspose(
            features=skip.shape[-1],
            strides=(2,) * self.ndim,
            kernel_init=layers.he_normal(0.0, fan_in=average_fan),
            dtype=self.dtype,
            name=f"{name}_up",
        )
        x = self._normalise(up(x), f"{name}_up_norm", train)
        x = layers.activation(self.activation, name=f"{name}_up_prelu")(x)
        joined = jnp.concatenate([x, skip], axis=-1)
        return self._block(joined, joined, joined.shape[-1], self.decoder_convs[level], name, train)

    def _block(self, x: Array, added: Array, features: int, count: int, name: str, train: bool) -> Array:
        """`count` convolutions of `x`, then `added`, then an activation."""
        for i in range(count):
            bare = i == count - 1 and (name == "encoder_0" or not self.activate_before_add)
            kind = "none" if bare else self.activation
            x = self._conv(features, KERNEL, f"{name}_conv_{i}", activation=kind)(x, train)
        return layers.activation(self.activation, name=f"{name}_prelu")(x + added)

    def _head(self, x: Array, train: bool) -> Array:
        norm = "none" if self.norm == "group" else self.norm  # as many channels as classes make no groups
        x = self._conv(self.num_classes, KERNEL, "head_conv", norm=norm)(x, train)
        return layers.logits_head(x, self.num_classes, dtype=self.dtype)

    def _conv(self, features: int, kernel: int, name: str, **options: Any) -> layers.ConvBlock:
        fields = {
            "use_bias": self.conv_bias,
            "norm": self.norm,
            "activation": self.activation,
            "kernel_init": layers.he_normal(0.0, fan_in=average_fan),
            "axis_name": self.axis_name,
            "dtype": self.dtype,
            **options,
        }
        return layers.ConvBlock(features, (kernel,) * self.ndim, name=name, **fields)

    def _normalise(self, x: Array, name: str, train: bool) -> Array:
        return layers.norm_layer(self.norm, train=train, axis_name=self.axis_name, dtype=self.dtype, name=name)(x)

    def _dropout(self, x: Array, name: str, train: bool) -> Array:
        space = tuple(range(1, self.ndim + 1))
        return nn.Dropout(self.dropout, broadcast_dims=space, deterministic=not train, name=name)(x)

    def _check_fields(self) -> None:
        levels = len(self.features)
        for field, length in {"encoder_convs": levels, "decoder_convs": levels - 1}.items():
            counts = getattr(self, field)
            if len(counts) != length or min(counts, default=0) < 1:
                raise ValueError(f"VNet.{field} needs {length} positive numbers for {levels} levels; it is {counts}.")


monai_vnet = functools.partial(
    VNet,
    encoder_convs=(1, 1, 2, 3, 2),
    decoder_convs=(1, 1, 2, 2),
    norm="batch",
    activation="elu",
    activate_before_add=True,
    conv_bias=False,
    dropout=0.5,
)
