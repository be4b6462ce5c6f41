"""segmentation_models.pytorch (0.6): Unet, FPN and DeepLabV3Plus on ResNet, VGG-BN and timm's Xception-65 encoders."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxseg import models
from jaxseg.transfer import backbone_names, torch_layout
from jaxseg.typing import UserError

ENCODERS = {"tu-xception65": "xception65"}  # their names where ours differ
HEAD = "segmentation_head.0.weight"


def unet(state_dict: Mapping[str, np.ndarray], *, encoder: str | None = None, **fields) -> tuple[Any, dict]:
    """Converts `Unet`; see `transfer.from_torch`."""
    source = "smp:Unet"
    backbone = _backbone(encoder, source)
    weights = _encoder_names(state_dict, backbone, source)
    levels = len({name.split(".")[2] for name in weights if name.startswith("decoder.blocks.")})
    widths = [weights[f"decoder.blocks.{i}.conv2.0.weight"].shape[0] for i in range(levels)]
    found = {"features": tuple(reversed(widths)), "head_kernel": weights[HEAD].shape[-1]}

    def name_of(layer: str, rest: list[str]) -> str:
        level, conv = torch_layout.numbers(r"decoder_(\d+)_conv_(\d+)", layer)
        return f"decoder.blocks.{levels - 1 - level}.conv{conv + 1}.{int(rest[0] == 'norm')}"

    return _convert("unet", weights, backbone, {"encoder": backbone, **found, **fields}, name_of, source)


def fpn(state_dict: Mapping[str, np.ndarray], *, encoder: str | None = None, **fields) -> tuple[Any, dict]:
    """Converts `FPN`; see `transfer.from_torch`."""
    source = "smp:FPN"
    backbone = _backbone(encoder, source)
    weights = _encoder_names(state_dict, backbone, source)
    found = {"features": weights["decoder.p5.weight"].shape[0], "segmentation_features": weights[HEAD].shape[1]}
    laterals = {"32": "p5", "16": "p4.skip_conv", "8": "p3.skip_conv", "4": "p2.skip_conv"}
    branches = {32: 0, 16: 1, 8: 2, 4: 3}

    def name_of(layer: str, rest: list[str]) -> str:
        if layer.startswith("lateral"):
            return f"decoder.{laterals[layer.removeprefix('lateral_')]}"
        stride, conv = torch_layout.numbers(r"level_(\d+)_conv_(\d+)", layer)
        return f"decoder.seg_blocks.{branches[stride]}.block.{conv}.block.{int(rest[0] == 'norm')}"

    return _convert("fpn", weights, backbone, {"backbone": backbone, **found, **fields}, name_of, source)


def deeplabv3plus(state_dict: Mapping[str, np.ndarray], *, encoder: str | None = None, **fields) -> tuple[Any, dict]:
    """Converts `DeepLabV3Plus` (its encoder's output stride, 16 by default, does not show); see `from_torch`."""
    source = "smp:DeepLabV3Plus"
    backbone = _backbone(encoder, source)
    weights = _encoder_names(state_dict, backbone, source)
    found = {
        "features": weights["decoder.aspp.0.project.0.weight"].shape[0],
        "low_level_features": weights["decoder.block1.0.weight"].shape[0],
        "rates": (12, 24, 36),  # at either output stride there
        "depthwise_norm": False,
        "refine": True,
        "decoder_convs": 1,
        "dropout": 0.5,
    }

    def name_of(layer: str, rest: list[str]) -> str:
        kind = int(rest[-2] == "norm")
        half = {"depthwise": 0, "pointwise": 1}
        if layer == "low_level":
            return f"decoder.block1.{kind}"
        if layer == "refine":  # depthwise, pointwise and normalisation are one sequence, its number 1 to 2
            return "decoder.aspp.2" if kind else f"decoder.aspp.1.{half[rest[0]]}"
        if layer == "decoder_0":
            return "decoder.block2.1" if kind else f"decoder.block2.0.{half[rest[0]]}"
        branch = rest[0]
        if branch == "project":
            return f"decoder.aspp.0.project.{kind}"
        if branch == "pooled":
            return f"decoder.aspp.0.convs.4.{1 + kind}"
        number = branch.removeprefix("branch_")
        if number == "0" or kind:
            return f"decoder.aspp.0.convs.{number}.{kind}"
        return f"decoder.aspp.0.convs.{number}.0.{half[rest[1]]}"

    return _convert("deeplabv3plus", weights, backbone, {"backbone": backbone, **found, **fields}, name_of, source)


def _backbone(encoder: str | None, source: str) -> str:
    if encoder is None:
        raise UserError(f'{source} needs encoder, such as encoder="resnet18": the state dict does not name it.')
    return ENCODERS.get(encoder, encoder)


def _encoder_names(state_dict: Mapping[str, np.ndarray], backbone: str, source: str) -> dict[str, np.ndarray]:
    """Renames `encoder.model.stem.0` (timm, wrapped) to `encoder.stem_0`; checks the names that must be there."""
    weights = {}
    for name, value in state_dict.items():
        short = re.sub(r"^encoder\.model\.", "encoder.", name)
        weights[re.sub(r"^encoder\.(stem|blocks)\.(\d+)\.", r"encoder.\1_\2.", short)] = value
    stem = f"encoder.{backbone_names.STEMS[backbone_names.family(backbone)]}"
    own = {"smp:Unet": "decoder.blocks.0.conv1.0.weight", "smp:FPN": "decoder.p5.weight"}
    torch_layout.require(weights, [stem, own.get(source, "decoder.aspp.0.project.0.weight"), HEAD], source)
    return weights


def _convert(name: str, weights: dict, backbone: str, fields: dict, name_of: Callable, source: str) -> tuple[Any, dict]:
    stem = weights[f"encoder.{backbone_names.STEMS[backbone_names.family(backbone)]}"]
    in_channels = torch_layout.channels(stem, fields.pop("in_channels", None), source)
    model = models.create(name, **{"num_classes": weights[HEAD].shape[0], **fields})

    def full_name(path):
        _, layer, *rest = path
        if layer == "backbone":
            return "encoder." + backbone_names.torch_name(backbone, tuple(rest))
        body = "segmentation_head.0" if layer == "head" else name_of(layer, rest)
        return f"{body}.{torch_layout.LEAVES[rest[-1]]}"

    variables = torch_layout.convert(
        model, weights, in_channels=in_channels, size=models.divisor(model), name_of=full_name, source=source
    )
    return model, variables
