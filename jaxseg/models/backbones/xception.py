"""The modified aligned Xception of DeepLabV3+ (Chen et al. 2018), dilated at output stride 16 and 8.

Every max-pooling of Chollet's network (2017) is a strided separable convolution here, which is why this one can be
dilated and the original cannot. Layers as in TensorFlow's DeepLab and timm's `xception65`: `stem_0`, `stem_1`,
`block_0/{conv1, conv2, conv3}/{depthwise, pointwise}`, `block_0/skip`; entry and middle flow, two blocks of exit flow.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import backbones, layers

EPSILON = 1e-3  # batch norm's, in both sources


class Xception(nn.Module):
    """Xception-65 by default; stages of nominal stride 2, 4, 8, 16, 32.

    A stage is what the second separable convolution of the next strided block gives, after the ReLU before the third
    (timm's feature maps; stride 4 is the decoder's low-level feature, 256 channels), and last the exit flow's output.

    Attributes:
      entry: (channels, stride) of the entry flow's blocks.
      middle: number of blocks of the middle flow.
      width_factor: of all channels; the field is not called `width` as those of ResNet and VGG, which are channels.
      ndim: spatial axes.
      output_stride: 32, 16 or 8.
      multi_grid: factors of the dilation of the last block's three convolutions.
      low_level_relu: False takes the stages before the ReLU, as TensorFlow's DeepLab takes its low-level feature.
      norm: see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in.
    """

    entry: tuple[tuple[int, int], ...] = ((128, 2), (256, 2), (728, 2))
    middle: int = 16
    width_factor: float = 1.0
    ndim: int = 2
    output_stride: int = 32
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    low_level_relu: bool = True
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B *S C"], train: bool = False) -> dict[int, Array]:
        backbones.check_output_stride(self.output_stride)
        block = layers.block_fields(self, epsilon=EPSILON, activation="relu", kernel_init=layers.he_normal(0.0))
        plain = {**block, "use_bias": False}
        threes = (3,) * self.ndim
        x = image.astype(self.dtype)
        x = layers.ConvBlock(self._wide(32), threes, strides=2, name="stem_0", **plain)(x, train)
        x = layers.ConvBlock(self._wide(64), threes, name="stem_1", **plain)(x, train)
        stages, nominal, dilation = {}, 2, 1
        for i, (features, stride, skip) in enumerate(self._blocks()):
            last = skip == "none"
            step = stride if nominal * stride <= self.output_stride else 1
            x, tapped = Block(
                tuple(map(self._wide, features)),
                step,
                tuple(dilation * factor for factor in (self.multi_grid if last else (1, 1, 1))),
                skip,
                self.low_level_relu,
                block,
                name=f"block_{i}",
            )(x, train)
            if stride > 1:
                stages[nominal] = tapped
                nominal *= stride
                # The convolutions after a stride that was not taken lie further apart, not the block itself.
                dilation *= stride // step
        stages[nominal] = x
        return stages

    def _blocks(self):
        """(channels of the three convolutions, stride, kind of skip) of every block."""
        for features, stride in self.entry:
            yield (features,) * 3, stride, "conv"
        for _ in range(self.middle):
            yield (728,) * 3, 1, "sum"
        yield (728, 1024, 1024), 2, "conv"
        yield (1536, 1536, 2048), 1, "none"

    def _wide(self, channels: int) -> int:
        return max(8, int(channels * self.width_factor))


class Block(nn.Module):
    """Three separable convolutions, the last one strided.

    The ReLU stands before each, or with skip "none" after both halves of each. Returns the output and what the third
    convolution was given.
    """

    features: tuple[int, ...]
    stride: int
    dilations: tuple[int, ...]
    skip: str
    tap_after_relu: bool
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> tuple[Array, Array]:
        ones, threes = (1,) * (x.ndim - 2), (3,) * (x.ndim - 2)
        before = self.skip != "none"
        linear = {**self.block, "activation": "none"}
        shared = linear if before else self.block
        y, tapped = x, x
        for i, (features, dilation) in enumerate(zip(self.features, self.dilations), start=1):
            raw = y
            y = nn.relu(y) if before else y
            tapped = y if self.tap_after_relu else raw
            y = layers.SeparableConv(
                features,
                threes,
                shared,
                strides=self.stride if i == len(self.features) else 1,
                dilation=dilation,
                depthwise_activation=shared["activation"],
                name=f"conv{i}",
            )(y, train)
        if self.skip == "none":
            return y, tapped
        if self.skip == "conv":
            options = {**linear, "use_bias": False, "strides": self.stride}
            x = layers.ConvBlock(self.features[-1], ones, name="skip", **options)(x, train)
        return y + x.astype(y.dtype), tapped


xception65 = Xception
xception41 = functools.partial(Xception, middle=8)
xception71 = functools.partial(Xception, entry=((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)))
