"""A residual network that enlarges images: MSRResNet, the modified SRResNet (Ledig et al. 2017; Wang et al. 2018).

Layers: `stem`, `block_0_conv1`, `block_0_conv2`, `up_0`, `conv`, `head`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import gan_layers, layers

SLOPE = 0.1
INITIAL = 0.1  # of He's deviation: the network begins near the linear interpolation that it adds to
SCALES = (2, 4)


class SuperResolution(nn.Module):
    """Residual blocks at low resolution, pixel shuffles, and linear interpolation of the input added to the output.

    Attributes:
      ndim: spatial axes, 2 or 3.
      channels: of the image, given and returned.
      features: channels within.
      blocks: residual blocks.
      scale: 2 or 4.
      axes: the spatial axes that are enlarged, None for all; `(0,)` in 3D: thick slices only.
      dtype: what is computed in; parameters and the image stay float32.
    """

    ndim: int = 2
    channels: int = 1
    features: int = 64
    blocks: int = 16
    scale: int = 4
    axes: tuple[int, ...] | None = None
    dtype: Any = jnp.float32

    @property
    def factors(self) -> tuple[int, ...]:
        """How many times longer each spatial axis becomes."""
        chosen = range(self.ndim) if self.axes is None else self.axes
        return tuple(self.scale if axis in chosen else 1 for axis in range(self.ndim))

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *T C"], dict[str, Any]]:
        """Returns the enlarged image and `{"features": the last residual block's}`; `train` changes nothing.

        Raises:
          ValueError: the image's rank or channels or a field does not fit.
        """
        del train
        self._check(image)
        doubling = tuple(2 if factor > 1 else 1 for factor in self.factors)
        x = nn.leaky_relu(self._conv(self.features, "stem")(image.astype(self.dtype)), SLOPE)
        for number in range(self.blocks):
            x = x + self._conv(self.features, f"block_{number}_conv2")(
                nn.relu(self._conv(self.features, f"block_{number}_conv1")(x))
            )
        deepest = x
        for number in range(self.scale.bit_length() - 1):
            wide = self._conv(self.features * 2 ** sum(step == 2 for step in doubling), f"up_{number}")(x)
            x = nn.leaky_relu(ops.pixel_shuffle(wide, doubling), SLOPE)
        x = nn.leaky_relu(self._conv(self.features, "conv")(x), SLOPE)
        x = self._conv(self.channels, "head")(x).astype(jnp.float32)
        return x + ops.resize(image.astype(jnp.float32), x.shape[1:-1]), {"features": deepest}

    def _check(self, image: Array) -> None:
        gan_layers.check_spatial(self.ndim)
        layers.check_rank("super-resolution network", image, self.ndim)
        if self.scale not in SCALES:
            raise ValueError(f"scale should be 2 or 4; it is {self.scale}.")
        if self.axes is not None and (not self.axes or not set(self.axes) <= set(range(self.ndim))):
            raise ValueError(f"axes should name spatial axes from 0 to {self.ndim - 1}; it is {self.axes}.")
        if image.shape[-1] != self.channels:
            raise ValueError(
                f"A super-resolution network with channels={self.channels} adds to its input, so it takes as many; "
                f"the image has {image.shape[-1]}."
            )

    def _conv(self, width: int, name: str) -> gan_layers.Conv:
        return gan_layers.Conv(width, (3,) * self.ndim, kernel_init=_small_he_normal, dtype=self.dtype, name=name)


def _small_he_normal(key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    return INITIAL * layers.he_normal(0.0)(key, shape, dtype)
