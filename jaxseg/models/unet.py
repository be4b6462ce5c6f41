"""U-Nets: nnU-Net's plain and residual-encoder networks, and the original of 2015, as settings of one module.

Sources: Ronneberger et al. 2015; Isensee et al. 2021 and 2024 (nnU-Net; dynamic_network_architectures 0.4.4).
Parameter names: `stem`, `encoder_0_conv_0`, `encoder_0_block_0`, `decoder_0_up`, `decoder_0_conv_0`, `head`, `head_1`;
the number is the resolution level, 0 the finest, in the encoder and the decoder alike.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import layers

RESIDUAL_BLOCKS = (1, 3, 4, 6)  # then 6 at every further level


class UNet(nn.Module):
    """A U-Net in 2D or 3D; the defaults are nnU-Net's plain network. Per-level fields go from the finest level down.

    Attributes:
      ndim: spatial axes, 2 or 3.
      num_classes: channels of the logits.
      features: channels a level.
      strides: a level, one number or one an axis; None: 1, then 2.
      kernels: sizes, one for all levels or one a level, each one number or one an axis.
      convs: convolutions an encoder level, one number or one a level.
      decoder_convs: convolutions a decoder level; None: 2, or 1 with `residual`.
      norm: "instance", "batch", "group" (8 groups) or "none".
      activation: "leaky_relu" (slope 0.01) or "relu".
      padding: "same" or "valid" (the output is smaller than the input; skips are cropped).
      downsample: "stride" of a level's first convolution, or "max_pool" before it.
      upsample: "transpose" (kernel = stride), or "linear" (1x1 convolution, then linear resizing).
      residual: residual encoder (stem and basic blocks) in place of plain convolutions.
      blocks: residual blocks a level; None: 1, 3, 4, 6, 6, ...
      deep_supervision: heads at all decoder levels but the main one fill `aux["deep"]`.
      conv_bias: biases in the 3x3 convolutions.
      dropout: rate after the two lowest encoder levels when training (needs the "dropout" key).
      skip_first: concatenate (skip, up) as in 2015; nnU-Net's order is (up, skip).
      attention: each skip passes a gate that the level below controls (Oktay et al. 2018).
      remat: keep only what each block takes in, and compute the rest anew for the gradient: less memory, more time,
        the same parameters and numbers.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    ndim: int = 2
    num_classes: int = 2
    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    strides: tuple[Any, ...] | None = None
    kernels: Any = 3
    convs: Any = 2
    decoder_convs: Any = None
    norm: str = "instance"
    activation: str = "leaky_relu"
    padding: str = "same"
    downsample: str = "stride"
    upsample: str = "transpose"
    residual: bool = False
    blocks: Any = None
    deep_supervision: bool = False
    conv_bias: bool = True
    dropout: float = 0.0
    skip_first: bool = False
    attention: bool = False
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def level_strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides into each level, one number an axis."""
        levels = len(self.features)
        return self._per_level(self.strides or (1,) + (2,) * (levels - 1), "strides")

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by (with "valid" padding: the step between sizes that fit)."""
        return tuple(math.prod(axis) for axis in zip(*self.level_strides))

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *T K"], dict[str, Any]]:
        """Returns the logits and `{"deep": lower-resolution logits, finest first, "features": before the head}`.

        Raises:
          ValueError: the image's rank, its size or a field does not fit.
        """
        self._check(image)
        skips = self._encode(image.astype(self.dtype), train)
        x, deep = skips.pop(), []
        for level in reversed(range(len(skips))):
            x = self._decode_level(x, skips[level], level, train)
            if self.deep_supervision and level:
                deep.append(self._head(x, f"head_{level}"))
        return self._head(x, "head"), {"deep": tuple(reversed(deep)), "features": x}

    def _encode(self, x: Array, train: bool) -> list[Array]:
        kernels, strides = self._level_kernels(), self.level_strides
        block = self._block_fields()
        conv_block, residual_block = (
            layers.recomputed(kind, self.remat) for kind in (layers.ConvBlock, layers.ResidualBlock)
        )
        if self.residual:
            x = conv_block(self.features[0], kernels[0], name="stem", **block)(x, train)
        counts = self._residual_counts() if self.residual else self._counts(self.convs, len(self.features), "convs")
        outputs = []
        for level, (features, kernel, count) in enumerate(zip(self.features, kernels, counts)):
            stride = strides[level]
            if self.downsample == "max_pool":
                x, stride = ops.max_pool(x, stride), (1,) * self.ndim
            for i in range(count):
                step = stride if i == 0 else (1,) * self.ndim
                if self.residual:
                    name = f"encoder_{level}_block_{i}"
                    x = residual_block(features, kernel, step, block, name=name)(x, train)
                else:
                    x = conv_block(features, kernel, step, name=f"encoder_{level}_conv_{i}", **block)(x, train)
            if self.dropout and level >= len(self.features) - 2:
                x = nn.Dropout(self.dropout, deterministic=not train, name=f"encoder_{level}_dropout")(x)
            outputs.append(x)
        return outputs

    def _decode_level(self, x: Array, skip: Array, level: int, train: bool) -> Array:
        features, strides = self.features[level], self.level_strides[level + 1]
        if self.attention:
            gate = layers.AttentionGate(max(1, features // 2), strides, dtype=self.dtype, name=f"decoder_{level}_gate")
            skip = gate(skip, x)
        x = self._up(x, features, strides, f"decoder_{level}_up")
        if self.padding == "valid":
            skip = layers.centre_crop(skip, x.shape[1:-1])
        x = jnp.concatenate([skip, x] if self.skip_first else [x, skip], axis=-1)
        convs = (1 if self.residual else 2) if self.decoder_convs is None else self.decoder_convs
        counts = self._counts(convs, len(self.features) - 1, "decoder_convs")
        kernel, conv_block = self._level_kernels()[level], layers.recomputed(layers.ConvBlock, self.remat)
        for i in range(counts[level]):
            x = conv_block(features, kernel, name=f"decoder_{level}_conv_{i}", **self._block_fields())(x, train)
        return x

    def _up(self, x: Array, features: int, strides: tuple[int, ...], name: str) -> Array:
        slope = self._slope()
        if self.upsample == "linear":
            # The two steps commute; the 1x1 convolution is cheaper on the small grid.
            ones = (1,) * self.ndim
            x = layers.Conv(features, ones, kernel_init=layers.he_normal(slope), dtype=self.dtype, name=name)(x)
            return ops.resize(x, [n * s for n, s in zip(x.shape[1:-1], strides)], method="linear")
        # nnU-Net counts a transposed kernel's fan-in as PyTorch does: output channels times taps. Without norms
        # (2015) the scale matters: there it is what one output really sums, the input channels.
        one_output, torch = (lambda shape: shape[-2]), (lambda shape: math.prod(shape[:-2]) * shape[-1])
        init = layers.he_normal(slope, fan_in=one_output if self.norm == "none" else torch)
        return layers.ConvTranspose(features, strides, kernel_init=init, dtype=self.dtype, name=name)(x)

    def _head(self, x: Array, name: str) -> Array:
        init = layers.he_normal(self._slope())
        head = layers.Conv(self.num_classes, (1,) * self.ndim, kernel_init=init, dtype=self.dtype, name=name)
        return head(x).astype(jnp.float32)

    def _slope(self) -> float:
        return layers.LEAKY_SLOPE if self.activation == "leaky_relu" else 0.0

    def _block_fields(self) -> dict[str, Any]:
        return {
            "padding": self.padding,
            "use_bias": self.conv_bias,
            "norm": self.norm,
            "activation": self.activation,
            "kernel_init": layers.he_normal(self._slope()),
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }

    def _per_level(self, values: Any, name: str) -> tuple[tuple[int, ...], ...]:
        levels = len(self.features)
        values = (values,) * levels if isinstance(values, int) else tuple(values)
        wide = tuple((v,) * self.ndim if isinstance(v, int) else tuple(v) for v in values)
        if len(wide) != levels or any(len(v) != self.ndim for v in wide):
            raise ValueError(
                f"UNet.{name} needs one entry for each of {levels} levels, a number or {self.ndim} of them; "
                f"it is {values}."
            )
        return wide

    def _level_kernels(self) -> tuple[tuple[int, ...], ...]:
        return self._per_level(self.kernels, "kernels")

    def _counts(self, values: Any, levels: int, name: str) -> tuple[int, ...]:
        counts = (values,) * levels if isinstance(values, int) else tuple(values)
        if len(counts) != levels or min(counts) < 1:
            raise ValueError(
                f"UNet.{name} needs one positive number, or one for each of {levels} levels; it is {values}."
            )
        return counts

    def _residual_counts(self) -> tuple[int, ...]:
        levels = len(self.features)
        default = RESIDUAL_BLOCKS[:levels] + RESIDUAL_BLOCKS[-1:] * (levels - len(RESIDUAL_BLOCKS))
        return self._counts(default if self.blocks is None else self.blocks, levels, "blocks")

    def _check(self, image: Array) -> None:
        choices = {
            "padding": ("same", "valid"),
            "downsample": ("stride", "max_pool"),
            "upsample": ("transpose", "linear"),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ValueError(f"UNet.{field} should be {' or '.join(known)}; it is {getattr(self, field)!r}.")
        layers.check_rank("UNet", image, self.ndim)
        if self.padding == "valid" and (self.residual or self.deep_supervision or self.attention):
            raise ValueError(
                "UNet with padding='valid' has no residual encoder, no deep supervision and no attention; use 'same'."
            )
        for axis, (size, step) in enumerate(zip(image.shape[1:-1], self.divisor)):
            if self.output_length(size, axis) is None:
                need = f"divisible by {step}" if self.padding == "same" else "that every valid level can halve"
                fit = next(n for n in range(size + 1, size + 4096 * step) if self.output_length(n, axis) is not None)
                raise ValueError(f"UNet needs a size {need} along spatial axis {axis}; it is {size}: pad it to {fit}.")

    def output_length(self, size: int, axis: int) -> int | None:
        """How long the output is along an axis for an input of `size`; None where the input does not fit."""
        if self.padding == "same":
            return None if size % self.divisor[axis] else size
        kernels, strides = self._level_kernels(), self.level_strides
        decoder = self._counts(2 if self.decoder_convs is None else self.decoder_convs, len(self.features) - 1, "convs")
        skips: list[int] = []
        for level, count in enumerate(self._counts(self.convs, len(self.features), "convs")):
            stride, trim = strides[level][axis], kernels[level][axis] - 1
            if self.downsample == "max_pool":
                if size % stride:
                    return None
                size = size // stride - count * trim
            else:
                size = (size - trim - 1) // stride + 1 - (count - 1) * trim
            if size < 1:
                return None
            skips.append(size)
        for level in reversed(range(len(self.features) - 1)):
            size *= strides[level + 1][axis]
            if size > skips[level]:
                return None
            size -= decoder[level] * (kernels[level][axis] - 1)
        return size if size > 0 else None


# Attention U-Net (Oktay et al. 2018), with batch norm and max-pooling as there.
attention_unet = functools.partial(UNet, attention=True, norm="batch", activation="relu", downsample="max_pool")

# The network of 2015: 31,030,658 parameters with one input channel and two classes.
unet2015 = functools.partial(
    UNet,
    features=(64, 128, 256, 512, 1024),
    norm="none",
    activation="relu",
    downsample="max_pool",
    skip_first=True,
)
