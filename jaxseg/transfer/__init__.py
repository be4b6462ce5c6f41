"""Weights of other projects' networks in ours. Nothing foreign is imported: a state dict is a dict of numpy arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg import registry
from jaxseg.transfer.freeze import check_pattern, freeze
from jaxseg.transfer.merge import Merged, adapt_channels, inflate_kernel, merge
from jaxseg.transfer.read import read_checkpoint, read_weights
from jaxseg.typing import UserError

__all__ = [
    "Merged", "adapt_channels", "check_pattern", "freeze", "from_torch", "inflate_kernel", "merge", "read_checkpoint",
    "read_weights",
]  # fmt: skip

SOURCES = {
    "efficientnet:lite0": "jaxseg.transfer.torchvision:classifier",
    "monai:SegResNet": "jaxseg.transfer.monai:segresnet",
    "monai:UNet": "jaxseg.transfer.monai:unet",
    "monai:VNet": "jaxseg.transfer.monai:vnet",
    "nnunet:PlainConvUNet": "jaxseg.transfer.nnunet:plain",
    "nnunet:ResidualEncoderUNet": "jaxseg.transfer.nnunet:residual",
    "smp:DeepLabV3Plus": "jaxseg.transfer.smp:deeplabv3plus",
    "smp:FPN": "jaxseg.transfer.smp:fpn",
    "smp:Unet": "jaxseg.transfer.smp:unet",
    "torchvision:deeplabv3_resnet50": "jaxseg.transfer.torchvision:deeplabv3",
    "torchvision:fcn_resnet50": "jaxseg.transfer.torchvision:fcn",
    "torchvision:maskrcnn_resnet50_fpn": "jaxseg.transfer.mask_rcnn:fpn",
    **{
        f"torchvision:{name}": "jaxseg.transfer.torchvision:classifier"
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg16_bn")
    },
}
CLASSIFIERS = {"efficientnet:lite0": "efficientnet_lite0"}  # the backbone where the source's name is not its own


def from_torch(state_dict: Mapping[str, np.ndarray], source: str, **fields: Any) -> tuple[Any, dict]:
    """Converts a PyTorch state dict to our network with the same weights.

    Args:
      state_dict: parameter name -> array.
      source: whose names these are, such as "nnunet:PlainConvUNet"; or "package.module:function" from outside, which
        takes the state dict and the fields and returns what this function returns.
      **fields: the network's fields; those that the state dict shows are optional (strides never show), and
        `in_channels` may be given as a check.

    Returns:
      `(model, variables)` for `model.apply(variables, image)`.

    Raises:
      UserError: the source is unknown, a field is missing, or names or shapes do not match one to one.
    """
    # Ours hold a colon too: only a dotted module before it is an outside path.
    if source not in SOURCES and "." not in source.partition(":")[0]:
        raise UserError(
            f"There is no source of weights named {source!r}; known: {', '.join(sorted(SOURCES))}, or "
            "package.module:function of your own."
        )
    convert = registry.resolve(source, SOURCES, kind="source of weights")
    if SOURCES.get(source, "").endswith(":classifier"):
        fields |= {"backbone": CLASSIFIERS.get(source, source.split(":")[1]), "source": source}
    return convert(dict(state_dict), **fields)
