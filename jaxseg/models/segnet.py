"""SegNet (Badrinarayanan, Kendall and Cipolla 2017): VGG-16 with batch norm, and unpooling at the maxima's own places.

Layers: `backbone/block_1_conv_0` ... (VGG-16-BN's weights fit), `decoder_5_conv_0` ... `decoder_1_conv_0`, `head`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers


class SegNet(nn.Module):
    """Encoder, mirrored decoder; a decoder level puts its input where the encoder's maxima stood, then convolves.

    Attributes:
      num_classes: channels of the logits.
      ndim: spatial axes.
      convs: convolutions a level, finest first; the decoder's are as many.
      width: channels of the finest level; each lower one has twice as many, at most eight times.
      dropout: rate after the three lowest decoder levels when training (needs the "dropout" key; Bayesian SegNet).
      norm: see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    num_classes: int = 2
    ndim: int = 2
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    dropout: float = 0.0
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (2 ** len(self.convs),) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"stages": the encoder's, "features": before the last convolution}`.

        Raises:
          ValueError: the image's rank or size does not fit.
        """
        layers.check_rank("SegNet", image, self.ndim)
        layers.check_divisible("SegNet", image, self.divisor)
        common = layers.block_fields(self)
        stages = backbones.create(
            "vgg16_bn", convs=self.convs, width=self.width, ndim=self.ndim, name="backbone", **common
        )(image, train)
        block = {"activation": "relu", "kernel_init": layers.he_normal(0.0), **common}
        x = stages[2 ** len(self.convs)]
        for level in reversed(range(len(self.convs))):
            encoded = stages[2**level]
            _, indices = ops.max_pool_indices(encoded, 2)
            x = ops.max_unpool(x, indices, 2)
            count = self.convs[level]
            for i in range(count):
                if level == 0 and i == count - 1:
                    break  # the last convolution gives the logits
                # A level's last convolution has the channels that the next finer level was encoded with.
                features = stages[2 ** (level - 1)].shape[-1] if i == count - 1 else encoded.shape[-1]
                name = f"decoder_{level + 1}_conv_{i}"
                x = layers.ConvBlock(features, (3,) * self.ndim, name=name, **block)(x, train)
            if self.dropout and level >= len(self.convs) - 3:
                x = nn.Dropout(self.dropout, deterministic=not train, name=f"decoder_{level + 1}_dropout")(x)
        logits = layers.logits_head(x, self.num_classes, kernel=3, dtype=self.dtype)
        return logits, {"stages": stages, "features": x}
