"""SPADE: a generator from label maps to images that modulates every normalisation by the labels (Park et al. 2019).

Layers: `stem`; `block_0` (the coarsest) with `norm_0`, `conv_0`, `norm_1`, `conv_1` and, where the channels change,
`norm_skip`, `conv_skip`; `head`. A norm holds `shared`, `scale`, `shift` and, with a style, `style`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import gan_layers, layers


class SpadeNorm(nn.Module):
    """Normalises without parameters, then scales and shifts each pixel by what convolutions say of the labels there.

    `y = norm(x) * (1 + scale(h)) + shift(h)` with `h = relu(shared(labels) + style)`. The style joins here because a
    shift or factor that is constant over space, put in before, is what instance norm takes out.

    Attributes:
      hidden: channels of `h`.
      norm: "instance" or "batch" (running statistics, no scale and shift of its own).
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in.
    """

    hidden: int = 128
    norm: str = "instance"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *S C"],
        segmentation: Float[Array, "B *T K"],
        style: Float[Array, "B Z"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B *S C"]:
        size = (3,) * (x.ndim - 2)
        labels = ops.resize(segmentation, x.shape[1:-1], method="nearest")
        h = gan_layers.Conv(self.hidden, size, dtype=self.dtype, name="shared")(labels)
        if style is not None:
            init = nn.initializers.lecun_normal()  # of a standard normal style each unit gets variance 1
            draw = nn.Dense(self.hidden, use_bias=False, kernel_init=init, dtype=self.dtype, name="style")(style)
            h = h + draw.reshape(len(x), *(1,) * len(size), self.hidden)
        h = nn.relu(h)
        scale = gan_layers.Conv(x.shape[-1], size, dtype=self.dtype, name="scale")(h)
        shift = gan_layers.Conv(x.shape[-1], size, dtype=self.dtype, name="shift")(h)
        return self._normalise(x, train) * (1 + scale) + shift

    def _normalise(self, x: Array, train: bool) -> Array:
        if self.norm == "instance":
            return gan_layers.standardise(x)
        if self.norm != "batch":
            raise ValueError(f"The norm of SPADE should be instance or batch; it is {self.norm!r}.")
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=layers.EPSILON,
            use_scale=False,
            use_bias=False,
            use_fast_variance=False,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="batch",
        )(x)


class SpadeBlock(nn.Module):
    """Twice SPADE, leaky ReLU and a 3x3 convolution, beside a skip; the middle has the fewer of both ends' channels."""

    features: int
    spectral: bool
    hidden: int
    norm: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *S C"],
        segmentation: Float[Array, "B *T K"],
        style: Float[Array, "B Z"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B *S O"]:
        def spade(x, name):
            return SpadeNorm(self.hidden, self.norm, self.axis_name, self.dtype, name=name)(
                x, segmentation, style, train
            )

        def conv(x, width, kernel, name, bias=True):
            size = (kernel,) * (x.ndim - 2)
            layer = gan_layers.Conv(width, size, use_bias=bias, spectral=self.spectral, dtype=self.dtype, name=name)
            return layer(x, train)

        middle = min(x.shape[-1], self.features)
        y = conv(gan_layers.leaky(spade(x, "norm_0")), middle, 3, "conv_0")
        y = conv(gan_layers.leaky(spade(y, "norm_1")), self.features, 3, "conv_1")
        if x.shape[-1] == self.features:
            return x + y
        return conv(spade(x, "norm_skip"), self.features, 1, "conv_skip", bias=False) + y


class Spade(nn.Module):
    """The generator: labels in low resolution, residual blocks with doublings between, an image.

    Without a style and at the default widths these are the reference's 16, 16, 16, 8, 4, 2, 1 times 64 channels.

    Attributes:
      ndim: spatial axes, 2 or 3.
      channels: of the image returned.
      features: base width.
      widths: of the blocks, in base widths, coarse to fine. The image doubles behind every block but the second and the
        last: `len(widths) - 2` times.
      hidden: channels in which labels become scale and shift.
      style_features: length of the style vector, standard normal; 0: no style, one image a label map.
      norm: "instance" or "batch". Instance norm makes zeros of one pixel: let the coarsest level have several.
      spectral: divide the blocks' kernels by their largest singular values (collection "spectral").
      output: "tanh" or "none".
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and the image stay float32.
    """

    ndim: int = 2
    channels: int = 1
    features: int = 64
    widths: tuple[int, ...] = (16, 16, 16, 8, 4, 2, 1)
    hidden: int = 128
    style_features: int = 64
    norm: str = "instance"
    spectral: bool = True
    output: str = "tanh"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the label map must be divisible by."""
        return (2 ** (len(self.widths) - 2),) * self.ndim

    @nn.compact
    def __call__(
        self,
        segmentation: Float[Array, "B *S K"],
        style: Float[Array, "B Z"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B *S O"], dict[str, Any]]:
        """Returns the image and `{"features": before the head}`; `segmentation` is one-hot (or soft).

        Raises:
          ValueError: the segmentation's rank or size, the style's length or a field does not fit.
        """
        self._check(segmentation, style)
        step = self.divisor[0]
        x = ops.resize(segmentation, [length // step for length in segmentation.shape[1:-1]], method="nearest")
        size = (3,) * self.ndim
        x = gan_layers.Conv(self.widths[0] * self.features, size, dtype=self.dtype, name="stem")(x)
        last = len(self.widths) - 1
        for number, width in enumerate(self.widths):
            block = SpadeBlock(
                width * self.features, self.spectral, self.hidden, self.norm, self.axis_name, self.dtype,
                name=f"block_{number}",
            )  # fmt: skip
            x = block(x, segmentation, style, train)
            if number not in (1, last):
                x = layers.double(x)
        y = gan_layers.Conv(self.channels, size, dtype=self.dtype, name="head")(gan_layers.leaky(x))
        return gan_layers.finish(y, self.output), {"features": x}

    def _check(self, segmentation: Array, style: Array | None) -> None:
        gan_layers.check_spatial(self.ndim)
        if len(self.widths) < 3:
            raise ValueError(f"SPADE needs three blocks or more; widths is {self.widths}.")
        layers.check_rank("SPADE generator", segmentation, self.ndim)
        layers.check_divisible("SPADE", segmentation, self.divisor)
        given = 0 if style is None else style.shape[-1]
        if given != self.style_features:
            raise ValueError(
                f"SPADE with style_features={self.style_features} takes a style of that length; it got {given or None}."
            )
