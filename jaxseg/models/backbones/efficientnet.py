"""EfficientNet-Lite0 (Tan and Le 2019, and the Lite release of 2020: no squeeze-and-excitation, ReLU6).

Layers: `stem`, `stage_0_block_0` and so on with `expand`, `depthwise`, `project`. Padding as TensorFlow's SAME, which
the ImageNet weights were trained with.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import backbones, layers

EPSILON = 1e-3
# (expansion, kernel, stride, channels, blocks) of each group
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(nn.Module):
    """Inverted residual blocks; stages of nominal stride 2 (16 channels), 4 (24), 8 (40), 16 (112), 32 (320).

    Attributes:
      stages: (expansion, kernel, stride, channels, blocks) of each group of blocks.
      stem: channels of the first convolution.
      ndim: spatial axes.
      output_stride: 32, or 16 or 8 with dilated last stages.
      norm: see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    stem: int = 32
    ndim: int = 2
    output_stride: int = 32
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B *S C"], train: bool = False) -> dict[int, Array]:
        backbones.check_output_stride(self.output_stride)
        block = layers.block_fields(
            self,
            use_bias=False,
            padding="tensorflow",
            epsilon=EPSILON,
            activation="relu6",
            kernel_init=layers.he_normal(0.0, fan_in=layers.fan_out),
        )
        x = image.astype(self.dtype)
        x = layers.ConvBlock(self.stem, (3,) * self.ndim, strides=2, name="stem", **block)(x, train)
        stages, nominal = {}, 2
        for stage, (expansion, kernel, stride, features, count) in enumerate(self.stages):
            nominal *= stride
            step, dilation = backbones.dilation(nominal, self.output_stride)
            for i in range(count):
                x = InvertedResidual(
                    features,
                    kernel,
                    step if i == 0 and stride > 1 else 1,
                    dilation,
                    expansion,
                    block,
                    name=f"stage_{stage}_block_{i}",
                )(x, train)
            stages[nominal] = x  # the last group of a stride is the stage
        return stages


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection; a skip where the shape stays (Sandler et al. 2018)."""

    features: int
    kernel: int
    stride: int
    dilation: int
    expansion: int
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *T O"]:
        n = x.ndim - 2
        ones, size = (1,) * n, (self.kernel,) * n
        wide = x.shape[-1] * self.expansion
        y = layers.ConvBlock(wide, ones, name="expand", **self.block)(x, train) if self.expansion > 1 else x
        spread: dict[str, Any] = {"strides": self.stride, "dilation": self.dilation, "groups": wide}
        y = layers.ConvBlock(wide, size, name="depthwise", **spread, **self.block)(y, train)
        linear = {**self.block, "activation": "none"}
        y = layers.ConvBlock(self.features, ones, name="project", **linear)(y, train)
        return y + x.astype(y.dtype) if y.shape == x.shape else y


efficientnet_lite0 = EfficientNet
