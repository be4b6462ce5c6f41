"""UNet++ (Zhou et al. 2018, 2020): a U-Net whose skips are themselves nested, dense decoders.

Layers: `node_2_1_conv_0` is the first convolution of X^{2,1}: level 2, first column of the decoder; column 0 encodes.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import layers


class UNetPlusPlus(nn.Module):
    """Node (i, j) convolves all nodes of its level before it and the upsampled node (i + 1, j - 1).

    Attributes:
      num_classes: channels of the logits.
      ndim: spatial axes.
      features: channels a level, finest first.
      deep_supervision: heads on the finest level's earlier nodes fill `aux["deep"]`, all of the image's size.
      norm: see `layers.norm_layer`.
      activation: see `layers.activation`.
      remat: keep only what each block takes in, and compute the rest anew for the gradient.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    num_classes: int = 2
    ndim: int = 2
    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    deep_supervision: bool = False
    norm: str = "batch"
    activation: str = "relu"
    remat: bool = False
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
        """Returns the logits of the last node and `{"deep": the earlier ones' logits, latest first, "features": ...}`.

        Raises:
          ValueError: the image's rank or size does not fit.
        """
        layers.check_rank("UNetPlusPlus", image, self.ndim)
        layers.check_divisible("UNetPlusPlus", image, self.divisor)
        levels, x = len(self.features), image.astype(self.dtype)
        rows: list[list[Array]] = []
        for level in range(levels):
            rows.append([self._node(ops.max_pool(x, 2) if level else x, level, 0, train)])
            x = rows[level][0]
        for column in range(1, levels):
            for level in range(levels - column):
                below = rows[level + 1][column - 1]
                up = ops.resize(below, [2 * n for n in below.shape[1:-1]])
                rows[level].append(self._node(jnp.concatenate([*rows[level], up], axis=-1), level, column, train))
        nodes = rows[0]
        logits = layers.logits_head(nodes[-1], self.num_classes, dtype=self.dtype)
        deep = ()
        if self.deep_supervision:
            deep = tuple(
                layers.logits_head(nodes[column], self.num_classes, dtype=self.dtype, name=f"head_{column}")
                for column in reversed(range(1, levels - 1))
            )
        return logits, {"deep": deep, "features": nodes[-1]}

    def _node(self, x: Array, level: int, column: int, train: bool) -> Array:
        block = layers.block_fields(self, activation=self.activation, kernel_init=layers.he_normal(0.0))
        conv_block = layers.recomputed(layers.ConvBlock, self.remat)
        for i in range(2):
            name = f"node_{level}_{column}_conv_{i}"
            x = conv_block(self.features[level], (3,) * self.ndim, name=name, **block)(x, train)
        return x
