"""A U-Net's decoder on any backbone, with a skip at every stride that the backbone has.

As segmentation_models.pytorch's `Unet`: nearest doubling, concatenation, two 3x3 convolutions with batch norm a level.
Layers: `backbone/...`, `decoder_4_conv_0` (level 4 lies on stride 16) ... `decoder_0_conv_1`, `head`, `head_1` ...
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers


class EncoderUNet(nn.Module):
    """What `create("unet", encoder=...)` makes.

    Attributes:
      encoder: a name of `backbones`, or an outside "package.module:attr".
      num_classes: channels of the logits.
      ndim: spatial axes.
      features: channels of the decoder's levels, finest (stride 1) first.
      head_kernel: size of the last convolution.
      upsample: "nearest" or "linear".
      deep_supervision: heads at all decoder levels but the finest fill `aux["deep"]`.
      attention: each skip passes a gate that the level below controls (Oktay et al. 2018).
      encoder_fields: further fields of the backbone, as pairs of name and value.
      norm: see `layers.norm_layer`.
      activation: the decoder's.
      remat: keep only what each block of the decoder takes in, and compute the rest anew for the gradient.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    encoder: str = "resnet18"
    num_classes: int = 2
    ndim: int = 2
    features: tuple[int, ...] = (16, 32, 64, 128, 256)
    head_kernel: int = 3
    upsample: str = "nearest"
    deep_supervision: bool = False
    attention: bool = False
    encoder_fields: tuple[tuple[str, Any], ...] = ()
    norm: str = "batch"
    activation: str = "relu"
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (2 ** len(self.features),) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"deep": ..., "stages": the backbone's, "features": before the head}`.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        layers.check_rank("UNet", image, self.ndim)
        layers.check_divisible(f"A UNet on {self.encoder}", image, self.divisor)
        if self.upsample not in ("nearest", "linear"):
            raise ValueError(f"UNet.upsample should be nearest or linear with an encoder; it is {self.upsample!r}.")
        common = layers.block_fields(self)
        fields = {"ndim": self.ndim, **common, **dict(self.encoder_fields)}
        stages = backbones.create(self.encoder, name="backbone", **fields)(image, train)
        lowest = 2 ** len(self.features)
        if lowest not in stages:
            strides = ", ".join(map(str, sorted(stages)))
            raise ValueError(
                f"UNet.features has {len(self.features)} levels and starts from stride {lowest}; {self.encoder} has "
                f"the strides {strides}."
            )
        block = {"use_bias": False, "activation": self.activation, "kernel_init": layers.he_normal(0.0), **common}
        conv_block, x, deep = layers.recomputed(layers.ConvBlock, self.remat), stages[lowest], []
        for level, features in reversed(list(enumerate(self.features))):
            coarse = x
            x = layers.double(x) if self.upsample == "nearest" else ops.resize(x, [2 * n for n in x.shape[1:-1]])
            skip = stages.get(2**level)
            if skip is not None:
                if self.attention:
                    gate = layers.AttentionGate(
                        max(1, features // 2), (2,) * self.ndim, dtype=self.dtype, name=f"decoder_{level}_gate"
                    )
                    skip = gate(skip, coarse)
                x = jnp.concatenate([x, skip], axis=-1)
            for i in range(2):
                name = f"decoder_{level}_conv_{i}"
                x = conv_block(features, (3,) * self.ndim, name=name, **block)(x, train)
            if self.deep_supervision and level:
                deep.append(self._head(x, f"head_{level}"))
        return self._head(x, "head"), {"deep": tuple(reversed(deep)), "stages": stages, "features": x}

    def _head(self, x: Array, name: str) -> Array:
        return layers.logits_head(x, self.num_classes, kernel=self.head_kernel, dtype=self.dtype, name=name)
