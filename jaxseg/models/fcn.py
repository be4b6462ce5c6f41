"""Fully convolutional networks on VGG-16: FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell 2015).

Layers: `backbone/...`, `fc6`, `fc7`, `score`, `score_pool4`, `score_pool3`; where upsampling learns `up_2` and so on.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers
from jaxseg.models.backbones import vgg

FIRST_PADDING = 100  # of the original's first convolution, so that its 7x7 layer without padding fits any image
CROPS = {8: 31, 16: 27, 32: 19}  # where the original cuts the image out of the last upsampling


def bilinear_init(key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Kernel `(*k, C, C)` of a transposed convolution that interpolates linearly, each channel by itself."""
    kernel = jnp.ones((), dtype)
    for length in shape[:-2]:
        factor = (length + 1) // 2
        centre = factor - 1 if length % 2 else factor - 0.5
        weights = 1 - jnp.abs(jnp.arange(length) - centre) / factor
        kernel = kernel[..., None] * weights.astype(dtype)
    return kernel[..., None, None] * jnp.eye(shape[-2], shape[-1], dtype=dtype)


class FCN(nn.Module):
    """VGG-16, its fully connected layers as convolutions, and scores that climb back to the image by summed skips.

    Any image size. Upsampling is bilinear interpolation, or starts as it (`learn_upsampling`).

    Attributes:
      num_classes: channels of the logits.
      stride: where the last upsampling starts: 8 (FCN-8s, skips from pool4 and pool3), 16 or 32 (no skip).
      ndim: spatial axes.
      width: VGG's channels in its first block (64); later ones follow.
      fc_features: channels of the two former fully connected layers (4096).
      original_padding: the published geometry: 100 zeros around the image, a 7x7 layer without padding, pooling that
        rounds up, scores cropped at fixed offsets. Off: "same" padding everywhere, and centres that stay in place.
      learn_upsampling: upsampling kernels are parameters (in the reference implementation they never change).
      dropout: rate after the former fully connected layers when training (needs the "dropout" key).
      norm: of VGG and of fc6, fc7, see `layers.norm_layer`; the original has none.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    num_classes: int = 2
    stride: int = 8
    ndim: int = 2
    width: int = 64
    fc_features: int = 4096
    original_padding: bool = False
    learn_upsampling: bool = False
    dropout: float = 0.5
    norm: str = "none"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"stages": the backbone's}`.

        Raises:
          ValueError: a stride that no FCN has, or an image of another rank.
        """
        layers.check_rank("FCN", image, self.ndim)
        if self.stride not in CROPS:
            raise ValueError(f"FCN.stride should be 8, 16 or 32; it is {self.stride}.")
        x = image.astype(self.dtype)
        if self.original_padding:
            extra = FIRST_PADDING - 1  # the first convolution pads one more
            x = jnp.pad(x, [(0, 0), *[(extra, extra)] * self.ndim, (0, 0)])
        ceil = True  # so that no row of the image is lost, whatever its size
        stages = backbones.create(
            "vgg16",
            width=self.width,
            ndim=self.ndim,
            ceil=ceil,
            norm=self.norm,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="backbone",
        )(x, train)
        x = self._fully_connected(stages[32], train)
        scores = self._score(x, "score")
        if self.stride <= 16:
            pool4 = vgg.pool(stages[8], ceil=ceil)
            scores = self._climb(scores, self._score(pool4, "score_pool4"), "up_2", offset=5)
        if self.stride == 8:
            pool3 = vgg.pool(stages[4], ceil=ceil)
            scores = self._climb(scores, self._score(pool3, "score_pool3"), "up_4", offset=9)
        logits = self._up(scores, self.stride, f"up_{self.stride}")
        offset = CROPS[self.stride] if self.original_padding else 0
        return self._crop(logits, image.shape[1:-1], offset).astype(jnp.float32), {"stages": stages}

    def _fully_connected(self, x: Array, train: bool) -> Array:
        block = layers.block_fields(self, activation="relu", kernel_init=layers.he_normal(0.0))
        padding = "valid" if self.original_padding else "same"
        for name, kernel in (("fc6", 7), ("fc7", 1)):
            size = (kernel,) * self.ndim
            x = layers.ConvBlock(self.fc_features, size, padding=padding, name=name, **block)(x, train)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"{name}_dropout")(x)
        return x

    def _score(self, x: Array, name: str) -> Array:
        zeros = nn.initializers.zeros
        return layers.Conv(self.num_classes, (1,) * self.ndim, kernel_init=zeros, dtype=self.dtype, name=name)(x)

    def _climb(self, scores: Array, skip: Array, name: str, *, offset: int) -> Array:
        up = self._up(scores, 2, name)
        if self.original_padding:
            return up + self._crop(skip, up.shape[1:-1], offset)
        return self._crop(up, skip.shape[1:-1], 0) + skip

    def _up(self, x: Array, factor: int, name: str) -> Array:
        size = (2 * factor,) * self.ndim
        # Without the original's geometry, half a window is cut off either end: centres stay where they were.
        options: dict[str, Any] = {
            "strides": (factor,) * self.ndim,
            "padding": 0 if self.original_padding else factor // 2,
        }
        if self.learn_upsampling:
            layer = layers.ConvTranspose(
                self.num_classes, kernel=size, use_bias=False, kernel_init=bilinear_init, dtype=self.dtype, name=name,
                **options,
            )  # fmt: skip
            return layer(x)
        kernel = bilinear_init(None, (*size, self.num_classes, self.num_classes))
        return ops.conv_transpose(x, kernel.astype(x.dtype), **options)

    def _crop(self, x: Array, size: tuple[int, ...], offset: int) -> Array:
        return x[:, *(slice(offset, offset + length) for length in size)]
