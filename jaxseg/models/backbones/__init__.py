"""Backbones by name: networks that turn an image into feature maps, one a stage, for any decoder to use.

A call is `backbone(image, train) -> {stride: (B, *T, C)}`. The keys are nominal strides (2, 4, 8, 16, 32; VGG also 1),
so that stages keep their names where dilation replaces strides: with `output_stride=16` the stage called 32 is dilated
and lies on the grid of 16. All take any number of channels, any image size, and `ndim` 2 or 3.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import flax.linen as nn

from jaxseg import registry
from jaxseg.typing import UserError

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
      UserError: there is no such backbone, or it has no such field (its fields are listed).
    """
    check_fields(backbone, fields)
    return registry.resolve(backbone, BACKBONES, kind="backbone")(**fields)


def fields_of(backbone: str) -> tuple[str, ...] | None:
    """The names of a backbone's fields, or None where it is a function from outside that does not say them.

    Raises:
      UserError: there is no such backbone.
    """
    maker = registry.resolve(backbone, BACKBONES, kind="backbone")
    kind = maker.func if isinstance(maker, functools.partial) else maker
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in ("parent", "name"))


def check_fields(backbone: str, fields: Iterable[str]) -> None:
    """Raises UserError when a backbone lacks one of these fields: those of one backbone rarely fit another."""
    known = fields_of(backbone)
    unknown = sorted(set(fields) - {*(known or fields), "name", "parent"})
    if unknown:
        raise UserError(
            f"The backbone {backbone!r} has no field {', '.join(unknown)}; its fields: {', '.join(known or ())}; give "
            "the network backbone_fields (a unet: encoder_fields) that fit, such as {}."
        )


def dilation(stride: int, output_stride: int) -> tuple[int, int]:
    """Returns (the stride that the stage of a nominal stride really takes, the dilation of its convolutions).

    A stage beyond `output_stride` does not stride; its taps lie as much further apart instead (Chen et al. 2017).
    """
    return (2, 1) if stride <= output_stride else (1, stride // output_stride)


def check_output_stride(output_stride: int) -> None:
    """Raises ValueError unless the stride is one that stages can be dilated to."""
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride should be 8, 16 or 32; it is {output_stride}.")
