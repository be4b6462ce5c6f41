"""Discriminators that judge patches of an image (PatchGAN, Isola et al. 2017), at one scale or several (Wang 2018).

They return float32 logits, one a patch, and the features of every layer before them. A conditional discriminator sees
its condition as further channels: the caller concatenates. Layers: `conv_0`, ..., `head`; `scale_0` is the finest.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxseg.models import gan_layers
from jaxseg.models.layers import check_rank

KERNEL = 4
WIDEST = 8


class PatchGAN(nn.Module):
    """4x4 convolutions of stride 2, one of stride 1, leaky ReLU, and a 4x4 convolution to one logit a patch.

    Attributes:
      ndim: spatial axes, 2 or 3.
      features: channels of the first layer; every further one has twice as many, up to eight times.
      layers: of stride 2. A logit sees 16, 34, 70 or 142 pixels an axis with 1, 2, 3 or 4 of them.
      norm: "instance" (no parameters), "batch" (then no biases before it) or "none"; never on the first layer.
      spectral: divide every kernel by its largest singular value (collection "spectral").
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    ndim: int = 2
    features: int = 64
    layers: int = 3
    norm: str = "instance"
    spectral: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *T 1"], dict[str, Any]]:
        """Returns the logits and `{"features": [of each layer, fine to coarse]}`.

        Raises:
          ValueError: the image's rank or a field does not fit, or the image is smaller than the layers need.
        """
        self._check(image)
        x, found = image.astype(self.dtype), []
        for number in range(self.layers + 1):
            normed = number > 0
            strides = 2 if number < self.layers else 1
            bias = self.norm != "batch" or not normed
            x = self._conv(min(2**number, WIDEST) * self.features, f"conv_{number}", strides, bias)(x, train)
            if normed:
                x = gan_layers.norm_of(self, f"norm_{number}", train)(x)
            x = gan_layers.leaky(x)
            found.append(x)
        return self._conv(1, "head", 1, True)(x, train).astype(jnp.float32), {"features": found}

    def _conv(self, width: int, name: str, strides: int, bias: bool) -> gan_layers.Conv:
        return gan_layers.Conv(
            width,
            (KERNEL,) * self.ndim,
            strides=strides,
            padding=1,
            use_bias=bias,
            spectral=self.spectral,
            dtype=self.dtype,
            name=name,
        )

    def _check(self, image: Array) -> None:
        gan_layers.check_spatial(self.ndim)
        check_rank("PatchGAN", image, self.ndim)
        if self.layers < 1:
            raise ValueError(f"A PatchGAN needs one layer or more; layers is {self.layers}.")
        least = 3 * 2**self.layers  # so that 3 pixels meet the two layers of stride 1, which take one off each
        if min(image.shape[1:-1]) < least:
            raise ValueError(
                f"A PatchGAN with layers={self.layers} needs {least} pixels an axis; the image is "
                f"{image.shape[1:-1]}: take fewer layers or larger patches."
            )


class MultiScalePatchGAN(nn.Module):
    """Several PatchGANs, each on the image at half the resolution of the one before.

    Attributes:
      ndim: spatial axes, 2 or 3.
      scales: how many.
      features, layers, norm, spectral, axis_name, dtype: of each, see `PatchGAN`.
    """

    ndim: int = 2
    scales: int = 2
    features: int = 64
    layers: int = 3
    norm: str = "instance"
    spectral: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[list[Float[Array, "B ..."]], dict[str, Any]]:
        """Returns a list of logits, fine to coarse, and `{"features": [a list a scale]}`.

        Raises:
          ValueError: no scale, or as `PatchGAN` at one of them.
        """
        if self.scales < 1:
            raise ValueError(f"A multi-scale PatchGAN needs one scale or more; scales is {self.scales}.")
        logits, found = [], []
        for number in range(self.scales):
            image = halve(image) if number else image
            judge = PatchGAN(
                self.ndim, self.features, self.layers, self.norm, self.spectral, self.axis_name, self.dtype,
                name=f"scale_{number}",
            )  # fmt: skip
            values, aux = judge(image, train)
            logits.append(values)
            found.append(aux["features"])
        return logits, {"features": found}


def halve(x: Float[Array, "B *S C"]) -> Float[Array, "B *T C"]:
    """Averages windows of three pixels at a step of two along each axis; at the border only over pixels that exist."""
    for axis in range(1, x.ndim - 1):
        length = x.shape[axis]
        count = (length + 1) // 2
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
        parts = [lax.slice_in_dim(padded, tap, tap + 2 * count - 1, 2, axis) for tap in range(3)]
        there = [min(2 * place + 2, length) - max(2 * place - 1, 0) for place in range(count)]
        weights = jnp.asarray([1 / number for number in there], x.dtype)
        x = sum(parts[1:], parts[0]) * weights.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return x
