"""Backbones by name: networks that turn an image into feature maps, one a stage, for any decoder to use.

A call is `backbone(image, train) -> {stride: (B, *T, C)}`. The keys are nominal strides (2, 4, 8, 16, 32; VGG also 1),
so that stages keep their names where dilation replaces strides: with `output_stride=16` the stage called 32 is dilated
and lies on the grid of 16. All take any number of channels, any image size, and `ndim` 2 or 3.
"""

from typing import Any

import flax.linen as nn

from jaxseg import registry

BACKBONES = {
    "resnet18": "jaxseg.models.backbones.resnet:resnet18",
    "resnet34": "jaxseg.models.backbones.resnet:resnet34",
    "resnet50": "jaxseg.models.backbones.resnet:resnet50",
    "resnet101": "jaxseg.models.backbones.resnet:resnet101",
    "resnet152": "jaxseg.models.backbones.resnet:resnet152",
    "vgg16": "jaxseg.models.backbones.vgg:vgg16",
    "vgg16_bn": "jaxseg.models.backbones.vgg:vgg16_bn",
    "xception65": "jaxseg.models.backbones.xception:xception65",
    "efficientnet_lite0": "jaxseg.models.backbones.efficientnet:efficientnet_lite0",
}


def create(backbone: str, /, **fields: Any) -> nn.Module:
    """Makes the backbone of that name, or an outside "package.module:attr"; `fields` are its dataclass fields.

    Raises:
      UserError: there is no such backbone.
    """
    return registry.resolve(backbone, BACKBONES, kind="backbone")(**fields)


def dilation(stride: int, output_stride: int) -> tuple[int, int]:
    """Returns (the stride that the stage of a nominal stride really takes, the dilation of its convolutions).

    A stage beyond `output_stride` does not stride; its taps lie as much further apart instead (Chen et al. 2017).
    """
    return (2, 1) if stride <= output_stride else (1, stride // output_stride)


def check_output_stride(output_stride: int) -> None:
    """Raises ValueError unless the stride is one that stages can be dilated to."""
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride should be 8, 16 or 32; it is {output_stride}.")
