"""torchvision's classifiers and segmentation networks (0.29), and the EfficientNet-Lite0 classifier, as ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg import models
from jaxseg.transfer import backbone_names, torch_layout
from jaxseg.typing import UserError

HEADS = {"resnet": "fc", "vgg": "classifier.6", "efficientnet": "_fc"}
VGG_DENSE = {"dense_0": "classifier.0", "dense_1": "classifier.3"}


def classifier(
    state_dict: Mapping[str, np.ndarray], *, backbone: str, source: str = "", in_channels: int | None = None, **fields
) -> tuple[Any, dict]:
    """Converts a classification network; see `transfer.from_torch`."""
    family = backbone_names.family(backbone)
    head = HEADS[family]
    torch_layout.require(state_dict, [backbone_names.STEMS[family], f"{head}.weight"], source)
    if family == "resnet" and backbone_names.resnet_of(state_dict) != backbone:
        raise UserError(f"The state dict is a {backbone_names.resnet_of(state_dict)}, not the {backbone} of {source}.")
    found = {"num_classes": state_dict[f"{head}.weight"].shape[0]}
    model = models.create("classifier", backbone=backbone, **{**found, **fields})

    def name_of(path):
        _, layer, *rest = path
        if layer == "backbone":
            return backbone_names.torch_name(backbone, tuple(rest))
        end = torch_layout.LEAVES[rest[-1]]
        if layer == "expand":
            return f"{'_conv_head' if rest[0] == 'conv' else '_bn1'}.{end}"
        return f"{VGG_DENSE.get(layer, head)}.{end}"

    def layout_of(path):
        if path[1] == "backbone" or path[1] == "expand":
            return torch_layout.layout(path)
        if path[-1] == "bias":
            return lambda array: array
        return torch_layout.flattened_kernel if path[1] == "dense_0" else torch_layout.dense_kernel

    stem = state_dict[backbone_names.STEMS[family]]
    variables = torch_layout.convert(
        model,
        state_dict,
        in_channels=torch_layout.channels(stem, in_channels, source),
        size=(32, 32),
        name_of=name_of,
        layout_of=layout_of,
        source=source,
    )
    return model, variables


def fcn(state_dict: Mapping[str, np.ndarray], *, source: str = "torchvision:fcn_resnet50", **fields):
    """Converts `fcn_resnet50` (or 101); see `transfer.from_torch`."""
    heads = {"classifier": "classifier", "auxiliary": "aux_classifier"}

    def name_of(layer: str, rest: list[str]) -> str:
        # a head is convolution 0, normalisation 1, ReLU, dropout, convolution 4
        place = {"conv": "0", "norm": "1"}[rest[1]] if rest[0] == "conv" else "4"
        return f"{heads[layer]}.{place}"

    return _segmentation("fcn_resnet", state_dict, name_of, source, fields)


def deeplabv3(state_dict: Mapping[str, np.ndarray], *, source: str = "torchvision:deeplabv3_resnet50", **fields):
    """Converts `deeplabv3_resnet50` (or 101); see `transfer.from_torch`."""

    def name_of(layer: str, rest: list[str]) -> str:
        if layer == "auxiliary":
            place = {"conv": "0", "norm": "1"}[rest[1]] if rest[0] == "conv" else "4"
            return f"aux_classifier.{place}"
        if layer == "head":
            return "classifier.4"
        kind = int(rest[-2] == "norm")
        if layer == "decoder_0":
            return f"classifier.{1 + kind}"
        if rest[0] == "project":
            return f"classifier.0.project.{kind}"
        if rest[0] == "pooled":
            return f"classifier.0.convs.4.{1 + kind}"
        return f"classifier.0.convs.{rest[0].removeprefix('branch_')}.{kind}"

    return _segmentation("deeplabv3", state_dict, name_of, source, fields)


def _segmentation(name: str, state_dict, name_of, source: str, fields: dict) -> tuple[Any, dict]:
    stem, head = "backbone.conv1.weight", "classifier.4.weight"
    torch_layout.require(state_dict, [stem, head], source)
    in_channels = torch_layout.channels(state_dict[stem], fields.pop("in_channels", None), source)
    prefix = "backbone."
    backbone = backbone_names.resnet_of({k.removeprefix(prefix): v for k, v in state_dict.items() if prefix in k})
    found = {
        "backbone": backbone,
        "num_classes": state_dict[head].shape[0],
        "auxiliary": "aux_classifier.0.weight" in state_dict,
    }
    model = models.create(name, **{**found, **fields})
    if not model.auxiliary:  # the auxiliary head may be left behind
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith("aux_classifier.")}

    def full_name(path):
        _, layer, *rest = path
        if layer == "backbone":
            return prefix + backbone_names.torch_name(backbone, tuple(rest))
        return f"{name_of(layer, rest)}.{torch_layout.LEAVES[rest[-1]]}"

    variables = torch_layout.convert(
        model, state_dict, in_channels=in_channels, size=(32, 32), name_of=full_name, source=source
    )
    return model, variables
