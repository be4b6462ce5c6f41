"""torchvision's Mask R-CNN on a feature pyramid (0.29, `maskrcnn_resnet50_fpn`) as ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg import models
from jaxseg.transfer import backbone_names, torch_layout

BODY = "backbone.body."
HEADS = {
    "proposal_head/conv": "rpn.head.conv.0.0",
    "proposal_head/objectness": "rpn.head.cls_logits",
    "proposal_head/deltas": "rpn.head.bbox_pred",
    "box_head/dense_0": "roi_heads.box_head.fc6",
    "box_head/dense_1": "roi_heads.box_head.fc7",
    "box_head/classes": "roi_heads.box_predictor.cls_score",
    "box_head/deltas": "roi_heads.box_predictor.bbox_pred",
    "mask_head/up": "roi_heads.mask_predictor.conv5_mask",
    "mask_head/head": "roi_heads.mask_predictor.mask_fcn_logits",
}


def fpn(
    state_dict: Mapping[str, np.ndarray], *, source: str = "torchvision:maskrcnn_resnet50_fpn", **fields: Any
) -> tuple[Any, dict]:
    """Converts `maskrcnn_resnet50_fpn`, also with another ResNet as its body; see `transfer.from_torch`.

    The network gets torchvision's dialect: anchors from the cell's corner, RoIAlign without the half pixel.
    """
    stem, classes = f"{BODY}conv1.weight", "roi_heads.box_predictor.cls_score.weight"
    torch_layout.require(
        state_dict, [stem, classes, "roi_heads.mask_head.0.0.weight", "rpn.head.conv.0.0.weight"], source
    )
    in_channels = torch_layout.channels(state_dict[stem], fields.pop("in_channels", None), source)
    backbone = backbone_names.resnet_of(
        {name.removeprefix(BODY): value for name, value in state_dict.items() if name.startswith(BODY)}
    )
    found = {"backbone": backbone, "num_classes": state_dict[classes].shape[0]}
    dialect = {"anchor_offset": 0.0, "aligned": False}
    model = models.create("mask_rcnn", **{**found, **dialect, **fields})

    def name_of(path: torch_layout.Path) -> str:
        _, group, *rest = path
        if group == "backbone":
            return BODY + backbone_names.torch_name(backbone, tuple(rest))
        end = torch_layout.LEAVES[rest[-1]]
        if group == "neck":
            kind, stride = rest[0].split("_")
            level = int(stride).bit_length() - 3
            return f"backbone.fpn.{'inner' if kind == 'lateral' else 'layer'}_blocks.{level}.0.{end}"
        if rest[0].startswith("conv_"):
            return f"roi_heads.mask_head.{rest[0].removeprefix('conv_')}.0.{end}"
        return f"{HEADS[f'{group}/{rest[0]}']}.{end}"

    def layout_of(path: torch_layout.Path):
        _, group, *rest = path
        if path[-1] != "kernel" or group not in ("box_head", "mask_head"):
            return torch_layout.layout(path)
        if rest[0] == "up":
            return torch_layout.conv_transpose_kernel
        if group == "mask_head":
            return torch_layout.conv_kernel
        return torch_layout.flattened_kernel if rest[0] == "dense_0" else torch_layout.dense_kernel

    variables = torch_layout.convert(
        model,
        state_dict,
        in_channels=in_channels,
        size=(64, 64),
        name_of=name_of,
        layout_of=layout_of,
        source=source,
    )
    return model, variables
