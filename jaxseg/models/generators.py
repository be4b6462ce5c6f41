"""Generators that translate one image into another: the U-Net of pix2pix and the residual network of CycleGAN.

Both take an image `(B, *S, C)` and return `(image, aux)`, the image float32 and by default from -1 to 1. Sources: Isola
et al. 2017 and Zhu et al. 2017, their papers and published code. Layers: `down_0`, `up_0` (0 is the finest level),
`stem`, `block_0`, `head`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import gan_layers, layers

DEEPEST_WITH_DROPOUT = 3
WIDEST = 8  # channels of the deepest levels over those of the first


class Pix2Pix(nn.Module):
    """The U-Net of pix2pix: 4x4 convolutions of stride 2 down, transposed ones up, a skip at every level.

    With `norm="batch"` only the last layer has a bias, as in the reference; else all have one. The only noise is the
    dropout of the three deepest levels on the way up (the paper's and its first code's; the later PyTorch code leaves
    out the deepest).

    Attributes:
      ndim: spatial axes, 2 or 3.
      channels: of the image returned.
      features: channels of the first level; every further one has twice as many, up to eight times.
      n_downs: levels. The deepest is best one pixel wide: log2 of the size, 8 for 256.
      norm: "instance" (no parameters), "batch" or "none"; never on the first and the deepest level's way down.
      dropout: rate, by the "dropout" key.
      output: "tanh" or "none".
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and the image stay float32.
    """

    ndim: int = 2
    channels: int = 1
    features: int = 64
    n_downs: int = 8
    norm: str = "instance"
    dropout: float = 0.5
    output: str = "tanh"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (2**self.n_downs,) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False, noise: bool | None = None
    ) -> tuple[Float[Array, "B *S O"], dict[str, Any]]:
        """Returns the image and `{"features": the deepest level's}`.

        `noise` turns dropout on or off (None: as `train`): pix2pix draws samples with it, `noise=True` and a key.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        self._check(image)
        widths = [min(2**level, WIDEST) * self.features for level in range(self.n_downs)]
        drop = train if noise is None else noise
        x, skips = image.astype(self.dtype), []
        for level, width in enumerate(widths):
            x = gan_layers.leaky(x) if level else x
            normed = 0 < level < self.n_downs - 1
            x = self._conv(width, f"down_{level}")(x)
            x = gan_layers.norm_of(self, f"down_{level}_norm", train)(x) if normed else x
            skips.append(x)
        deepest = x
        for level in reversed(range(self.n_downs)):
            x = nn.relu(x if level == self.n_downs - 1 else jnp.concatenate([skips[level], x], axis=-1))
            x = self._up(widths[level - 1] if level else self.channels, f"up_{level}", bias=level == 0)(x)
            if level:
                x = gan_layers.norm_of(self, f"up_{level}_norm", train)(x)
            if level and level >= self.n_downs - DEEPEST_WITH_DROPOUT:
                x = nn.Dropout(self.dropout, deterministic=not drop, name=f"up_{level}_dropout")(x)
        return gan_layers.finish(x, self.output), {"features": deepest}

    def _check(self, image: Array) -> None:
        gan_layers.check_spatial(self.ndim)
        layers.check_rank("pix2pix generator", image, self.ndim)
        if self.n_downs < 2:
            raise ValueError(f"A pix2pix generator needs n_downs of 2 or more; it is {self.n_downs}.")
        layers.check_divisible("The pix2pix generator", image, self.divisor)

    def _conv(self, width: int, name: str) -> gan_layers.Conv:
        size, options = (4,) * self.ndim, gan_layers.options_of(self)
        return gan_layers.Conv(width, size, strides=2, padding=1, name=name, **options)

    def _up(self, width: int, name: str, bias: bool) -> layers.ConvTranspose:
        size, step = (4,) * self.ndim, (2,) * self.ndim
        return layers.ConvTranspose(
            width, step, kernel=size, padding=1, name=name, **gan_layers.options_of(self, bias=bias)
        )


class ResNetGenerator(nn.Module):
    """CycleGAN's generator: a strided way down, residual blocks, a transposed way up; reflecting borders.

    Attributes:
      ndim: spatial axes, 2 or 3.
      channels: of the image returned.
      features: channels at full resolution; each level down has twice as many.
      downs: levels down and up.
      blocks: residual blocks at the deepest level (reference: 9 for images of 256, 6 for 128).
      norm: "instance" (no parameters), "batch" (then no biases before it) or "none".
      output: "tanh" or "none".
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and the image stay float32.
    """

    ndim: int = 2
    channels: int = 1
    features: int = 64
    downs: int = 2
    blocks: int = 9
    norm: str = "instance"
    output: str = "tanh"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (2**self.downs,) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S O"], dict[str, Any]]:
        """Returns the image and `{"features": the last residual block's}`.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        gan_layers.check_spatial(self.ndim)
        layers.check_rank("ResNet generator", image, self.ndim)
        layers.check_divisible("The ResNet generator", image, self.divisor)
        x = gan_layers.reflect_pad(image.astype(self.dtype), 3)
        x = self._step(self._conv(self.features, 7, "stem", padding=0)(x), "stem", train)
        for level in range(self.downs):
            x = self._conv(2 * x.shape[-1], 3, f"down_{level}", strides=2)(x)
            x = self._step(x, f"down_{level}", train)
        for number in range(self.blocks):
            x = x + self._residual(x, f"block_{number}", train)
        deepest = x
        for level in reversed(range(self.downs)):
            x = self._up(x.shape[-1] // 2, f"up_{level}")(x)
            x = self._step(x, f"up_{level}", train)
        x = self._conv(self.channels, 7, "head", padding=0, bias=True)(gan_layers.reflect_pad(x, 3))
        return gan_layers.finish(x, self.output), {"features": deepest}

    def _residual(self, x: Array, name: str, train: bool) -> Array:
        width = x.shape[-1]
        y = self._conv(width, 3, f"{name}_conv1", padding=0)(gan_layers.reflect_pad(x, 1))
        y = self._step(y, f"{name}_conv1", train)
        y = self._conv(width, 3, f"{name}_conv2", padding=0)(gan_layers.reflect_pad(y, 1))
        return gan_layers.norm_of(self, f"{name}_conv2_norm", train)(y)

    def _step(self, x: Array, name: str, train: bool) -> Array:
        return nn.relu(gan_layers.norm_of(self, f"{name}_norm", train)(x))

    def _conv(self, width: int, kernel: int, name: str, *, strides: int = 1, padding: int = 1, bias: bool = False):
        size, options = (kernel,) * self.ndim, gan_layers.options_of(self, bias=bias)
        return gan_layers.Conv(width, size, strides=strides, padding=padding, name=name, **options)

    def _up(self, width: int, name: str) -> layers.ConvTranspose:
        size, step = (3,) * self.ndim, (2,) * self.ndim
        return layers.ConvTranspose(
            width, step, kernel=size, padding=1, output_padding=1, name=name, **gan_layers.options_of(self)
        )
