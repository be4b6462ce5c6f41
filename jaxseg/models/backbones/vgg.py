"""VGG-16 (Simonyan and Zisserman 2015), with or without batch norm, as torchvision has it.

Parameter names: `block_1_conv_0` to `block_5_conv_2`, each with `conv` (with bias, also before batch norm) and `norm`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions with 2x2 max-pooling between them; stages of stride 1, 2, 4, 8, 16.

    The stage called 32 is the last one pooled once more, as the classifier takes it.

    Attributes:
      convs: convolutions a block.
      width: channels of the first block; each later one has twice as many, at most eight times.
      ndim: spatial axes.
      output_stride: 32, or 16 or 8: the pooling beyond it is left out and later blocks are dilated.
      ceil: windows that reach over the image's far edge count too, as in Caffe.
      norm: see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in.
    """

    convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    ndim: int = 2
    output_stride: int = 32
    ceil: bool = False
    norm: str = "none"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B *S C"], train: bool = False) -> dict[int, Array]:
        backbones.check_output_stride(self.output_stride)
        block = layers.block_fields(self, activation="relu", kernel_init=layers.he_normal(0.0, fan_in=layers.fan_out))
        x, stages = image.astype(self.dtype), {}
        for number, count in enumerate(self.convs, start=1):
            stride = 2 ** (number - 1)
            _, dilation = backbones.dilation(stride, self.output_stride)
            if 1 < stride <= self.output_stride:
                x = pool(x, ceil=self.ceil)
            for i in range(count):
                features = self.width * min(stride, 8)
                name = f"block_{number}_conv_{i}"
                x = layers.ConvBlock(features, (3,) * self.ndim, dilation=dilation, name=name, **block)(x, train)
            stages[stride] = x
        last = 2 ** len(self.convs)
        stages[last] = pool(x, ceil=self.ceil) if last <= self.output_stride else x
        return stages


def pool(x: Float[Array, "B *S C"], *, ceil: bool = False) -> Float[Array, "B *T C"]:
    """2x2 max-pooling; an odd size is rounded down, or with `ceil` up (the last window is half outside)."""
    if ceil:
        pads = [(0, 0), *((0, length % 2) for length in x.shape[1:-1]), (0, 0)]
        x = jnp.pad(x, pads, constant_values=-jnp.inf)
    return ops.max_pool(x, 2, strides=2)


vgg16 = VGG
vgg16_bn = functools.partial(VGG, norm="batch")
