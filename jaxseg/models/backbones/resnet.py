"""ResNets (He et al. 2016) as torchvision has them (v1.5: a bottleneck strides in its 3x3 convolution), 2D and 3D.

Parameter names: `stem`, `stage_1_block_0/{conv1, conv2, conv3, skip}`, each with `conv` and `norm`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers

EXPANSION = 4  # a bottleneck's output channels to its width


class ResNet(nn.Module):
    """A residual network in four stages of nominal stride 4, 8, 16, 32, after a stem of stride 2.

    Attributes:
      blocks: residual blocks a stage.
      bottleneck: blocks of 1x1, 3x3, 1x1 convolutions and four times the width, or of two 3x3 ones.
      width: channels of the first stage; each later one has twice as many.
      ndim: spatial axes.
      output_stride: 32, or 16 or 8 with dilated last stages.
      first_keeps_dilation: torchvision's dialect: the first block of a dilated stage keeps the dilation of the stage
        before; without it every 3x3 convolution of the stage gets the new one (segmentation_models.pytorch).
      multi_grid: factors of the last stage's dilation, block by block (Chen et al. 2017: 1, 2, 4 at output stride 16).
      norm: see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    ndim: int = 2
    output_stride: int = 32
    first_keeps_dilation: bool = False
    multi_grid: tuple[int, ...] = (1,)
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B *S C"], train: bool = False) -> dict[int, Array]:
        backbones.check_output_stride(self.output_stride)
        block = layers.block_fields(
            self, use_bias=False, activation="relu", kernel_init=layers.he_normal(0.0, fan_in=layers.fan_out)
        )
        x = layers.ConvBlock(self.width, (7,) * self.ndim, strides=2, name="stem", **block)(
            image.astype(self.dtype), train
        )
        stages = {2: x}
        x = ops.max_pool(x, 3, strides=2, padding=1)
        previous = 1
        for stage, count in enumerate(self.blocks, start=1):
            nominal = 2 ** (stage + 1)
            stride, dilation = (1, 1) if stage == 1 else backbones.dilation(nominal, self.output_stride)
            for i in range(count):
                first = i == 0
                rate = previous if first and self.first_keeps_dilation else dilation
                if dilation > 1 and stage == len(self.blocks):
                    rate *= self.multi_grid[i % len(self.multi_grid)]
                x = ResidualBlock(
                    self.width * 2 ** (stage - 1),
                    stride if first else 1,
                    rate,
                    self.bottleneck,
                    block,
                    name=f"stage_{stage}_block_{i}",
                )(x, train)
            stages[nominal] = x
            previous = dilation
        return stages


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a bottleneck, and a skip; projected by a 1x1 convolution where shapes change."""

    features: int
    stride: int
    dilation: int
    bottleneck: bool
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        n = x.ndim - 2
        ones, threes = (1,) * n, (3,) * n
        linear = {**self.block, "activation": "none"}
        spread: dict[str, Any] = {"strides": self.stride, "dilation": self.dilation}
        if self.bottleneck:
            outputs = self.features * EXPANSION
            y = layers.ConvBlock(self.features, ones, name="conv1", **self.block)(x, train)
            y = layers.ConvBlock(self.features, threes, name="conv2", **spread, **self.block)(y, train)
            y = layers.ConvBlock(outputs, ones, name="conv3", **linear)(y, train)
        else:
            outputs = self.features
            y = layers.ConvBlock(outputs, threes, name="conv1", **spread, **self.block)(x, train)
            y = layers.ConvBlock(outputs, threes, dilation=self.dilation, name="conv2", **linear)(y, train)
        if self.stride != 1 or x.shape[-1] != outputs:
            x = layers.ConvBlock(outputs, ones, strides=self.stride, name="skip", **linear)(x, train)
        return nn.relu(y + x.astype(y.dtype))


resnet18 = ResNet
resnet34 = functools.partial(ResNet, blocks=(3, 4, 6, 3))
resnet50 = functools.partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True)
resnet101 = functools.partial(ResNet, blocks=(3, 4, 23, 3), bottleneck=True)
resnet152 = functools.partial(ResNet, blocks=(3, 8, 36, 3), bottleneck=True)
