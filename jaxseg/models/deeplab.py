"""DeepLabV3 (Chen et al. 2017) and DeepLabV3+ (Chen et al. 2018) on any backbone, 2D and 3D.

One atrous pyramid with the settings in which its public versions differ. Parameter names: `backbone/...`,
`pyramid/{branch_0, branch_1, ..., pooled, project}`, `refine`, `low_level`, `decoder_0`, `head`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers

RATES = {32: (3, 6, 9), 16: (6, 12, 18), 8: (12, 24, 36)}  # by output stride, so that the field of view stays
# The dialect of torchvision's two networks; backbones other than ResNets have no such field and do without.
TORCHVISION = (("first_keeps_dilation", True),)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, 3x3 ones at several rates, the image's mean; projected.

    Attributes:
      features: channels of every branch and of the output.
      rates: dilation of the 3x3 branches.
      separable: depthwise separable 3x3 branches.
      depthwise_norm: normalisation and ReLU between their halves too (TensorFlow's DeepLab).
      dropout: rate after the projection when training (needs the "dropout" key).
      block: the fields that all convolutions here share.
    """

    features: int
    rates: tuple[int, ...]
    separable: bool
    depthwise_norm: bool
    dropout: float
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *S F"]:
        n = x.ndim - 2
        ones, threes = (1,) * n, (3,) * n
        branches = [layers.ConvBlock(self.features, ones, name="branch_0", **self.block)(x, train)]
        for i, rate in enumerate(self.rates, start=1):
            convolve = atrous_conv(
                self.features, threes, rate, self.separable, self.depthwise_norm, self.block, name=f"branch_{i}"
            )
            branches.append(convolve(x, train))
        mean = jnp.mean(x, axis=tuple(range(1, n + 1)), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        # One value a channel and image: instance norm would make it zero, so the mean is normalised over groups.
        kind = "group" if self.block["norm"] == "instance" else self.block["norm"]
        pooled = layers.ConvBlock(self.features, ones, name="pooled", **{**self.block, "norm": kind})(mean, train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = layers.ConvBlock(self.features, ones, name="project", **self.block)(jnp.concatenate(branches, -1), train)
        return nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)


def atrous_conv(features, kernel, rate, separable: bool, depthwise_norm: bool, block: Mapping[str, Any], *, name: str):
    """Returns a 3x3 layer with dilation, plain or separable."""
    if not separable:
        return layers.ConvBlock(features, kernel, dilation=rate, name=name, **block)
    return layers.SeparableConv(
        features,
        kernel,
        block,
        dilation=rate,
        depthwise_norm=depthwise_norm,
        depthwise_activation=block["activation"] if depthwise_norm else "none",
        name=name,
    )


class DeepLabV3Plus(nn.Module):
    """Backbone, atrous pyramid, and a decoder that adds the detail of stride 4; logits have the image's size.

    The defaults are the paper's network (TensorFlow's: separable, two decoder convolutions). `separable=False` is the
    plain one; `depthwise_norm=False, refine=True, decoder_convs=1, dropout=0.5` that of segmentation_models.pytorch.

    Attributes:
      backbone: a name of `backbones`, or an outside "package.module:attr".
      num_classes: channels of the logits.
      ndim: spatial axes (3 with backbones that have three: ResNet).
      output_stride: of the backbone: 16, 8 (dearer, finer) or 32.
      rates: of the pyramid; None: 6, 12, 18 at stride 16, in proportion at others.
      features: channels of pyramid and decoder.
      low_level_features: channels that the stride-4 stage is projected to.
      separable, depthwise_norm: see AtrousPyramid.
      refine: one more separable convolution behind the pyramid.
      decoder_convs: 3x3 convolutions after the concatenation.
      dropout: rate behind the pyramid when training (needs the "dropout" key).
      backbone_fields: further fields of the backbone, as pairs of name and value.
      norm: see `layers.norm_layer`; with few images a step "group" does better than "batch".
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    backbone: str = "resnet50"
    num_classes: int = 2
    ndim: int = 2
    output_stride: int = 16
    rates: tuple[int, ...] | None = None
    features: int = 256
    low_level_features: int = 48
    separable: bool = True
    depthwise_norm: bool = True
    refine: bool = False
    decoder_convs: int = 2
    dropout: float = 0.1
    backbone_fields: tuple[tuple[str, Any], ...] = ()
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"stages": the backbone's, "features": the decoder's}`."""
        layers.check_rank("DeepLabV3Plus", image, self.ndim)
        block, threes = _block(self), (3,) * self.ndim
        stages = _backbone(self)(image, train)
        x = _pyramid(self, self.separable, self.depthwise_norm)(stages[32], train)
        if self.refine:
            refine = layers.SeparableConv(self.features, threes, block, depthwise_norm=False, name="refine")
            x = refine(x, train)
        low = layers.ConvBlock(self.low_level_features, (1,) * self.ndim, name="low_level", **block)(stages[4], train)
        x = ops.resize(x, low.shape[1:-1], align_corners=True)
        x = jnp.concatenate([x, low], axis=-1)
        for i in range(self.decoder_convs):
            convolve = atrous_conv(
                self.features, threes, 1, self.separable, self.depthwise_norm, block, name=f"decoder_{i}"
            )
            x = convolve(x, train)
        logits = layers.logits_head(x, self.num_classes, dtype=self.dtype)
        logits = ops.resize(logits, image.shape[1:-1], align_corners=True)
        return logits, {"stages": stages, "features": x}


class DeepLabV3(nn.Module):
    """torchvision's DeepLabV3: a backbone of output stride 8, the plain pyramid, one 3x3 convolution; no decoder.

    Attributes are those of DeepLabV3Plus; `auxiliary` adds an FCN head on stage 16 as `aux["auxiliary"]` when training.
    """

    backbone: str = "resnet50"
    num_classes: int = 2
    ndim: int = 2
    output_stride: int = 8
    rates: tuple[int, ...] | None = None
    features: int = 256
    dropout: float = 0.5
    auxiliary: bool = False
    backbone_fields: tuple[tuple[str, Any], ...] = TORCHVISION
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"stages": ..., "auxiliary": logits, where asked for}`."""
        layers.check_rank("DeepLabV3", image, self.ndim)
        stages = _backbone(self)(image, train)
        x = _pyramid(self, False, False)(stages[32], train)
        x = layers.ConvBlock(self.features, (3,) * self.ndim, name="decoder_0", **_block(self))(x, train)
        return _answer(self, layers.logits_head(x, self.num_classes, dtype=self.dtype), stages, image, train)


class FCNResNet(nn.Module):
    """torchvision's FCN: a backbone of output stride 8 and a head of one 3x3 and one 1x1 convolution.

    Attributes are those of DeepLabV3.
    """

    backbone: str = "resnet50"
    num_classes: int = 2
    ndim: int = 2
    output_stride: int = 8
    auxiliary: bool = False
    backbone_fields: tuple[tuple[str, Any], ...] = TORCHVISION
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"stages": ..., "auxiliary": logits, where asked for}`."""
        layers.check_rank("FCNResNet", image, self.ndim)
        stages = _backbone(self)(image, train)
        logits = FCNHead(self.num_classes, _block(self), name="classifier")(stages[32], train)
        return _answer(self, logits, stages, image, train)


class FCNHead(nn.Module):
    """3x3 convolution to a quarter of the channels, dropout 0.1, 1x1 convolution to float32 logits."""

    num_classes: int
    block: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"], train: bool = False) -> Float[Array, "B *S K"]:
        x = layers.ConvBlock(x.shape[-1] // 4, (3,) * (x.ndim - 2), name="conv", **self.block)(x, train)
        x = nn.Dropout(0.1, deterministic=not train, name="dropout")(x)
        return layers.logits_head(x, self.num_classes, dtype=self.block["dtype"])


def _answer(
    network, logits: Array, stages: dict[int, Array], image: Array, train: bool
) -> tuple[Array, dict[str, Any]]:
    """Logits at the image's size, and those of an auxiliary head on stage 16 where the network has one."""
    size = image.shape[1:-1]
    aux: dict[str, Any] = {"stages": stages}
    if network.auxiliary:
        head = FCNHead(network.num_classes, _block(network), name="auxiliary")
        aux["auxiliary"] = ops.resize(head(stages[16], train), size)
    return ops.resize(logits, size), aux


def _block(network) -> dict[str, Any]:
    return layers.block_fields(network, use_bias=False, activation="relu", kernel_init=layers.he_normal(0.0))


def _backbone(network) -> nn.Module:
    fields = layers.block_fields(network, ndim=network.ndim, output_stride=network.output_stride)
    own = dict(network.backbone_fields)
    if network.backbone_fields == TORCHVISION:
        known = backbones.fields_of(network.backbone) or ()
        own = {name: value for name, value in own.items() if name in known}
    fields |= own
    return backbones.create(network.backbone, name="backbone", **fields)


def _pyramid(network, separable: bool, depthwise_norm: bool) -> AtrousPyramid:
    rates = network.rates or RATES[network.output_stride]
    return AtrousPyramid(
        network.features, rates, separable, depthwise_norm, network.dropout, _block(network), name="pyramid"
    )
