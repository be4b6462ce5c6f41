"""What PyTorch projects call the layers of the backbones: our path in a backbone -> their name.

torchvision's ResNets and VGGs, timm's Xception-65, and the EfficientNet-Lite0 of lukemelas' family of packages.
"""

from jaxseg.models.backbones import efficientnet
from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

VGG_CONVS = (2, 2, 3, 3, 3)
RESNET_BLOCKS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
STEMS = {  # the first convolution's name, whose weight shows the number of input channels
    "resnet": "conv1.weight",
    "vgg": "features.0.weight",
    "xception": "stem_0.conv.weight",
    "efficientnet": "_conv_stem.weight",
}


def family(backbone: str) -> str:
    """The family of a backbone's name, such as "resnet" of "resnet50".

    Raises:
      UserError: none that PyTorch weights are known for.
    """
    for name in STEMS:
        if backbone.startswith(name):
            return name
    raise UserError(f"PyTorch names are known for backbones called {', '.join(STEMS)}...; not for {backbone!r}.")


def torch_name(backbone: str, path: tuple[str, ...]) -> str:
    """The state dict's name of a backbone's variable, such as ("stage_1_block_0", "conv1", "conv", "kernel")."""
    *layer, leaf = path
    end = torch_layout.LEAVES[leaf]
    namer = {"resnet": _resnet, "xception": _xception, "efficientnet": _efficientnet}.get(family(backbone))
    body = _vgg(layer, batch_norm=backbone.endswith("_bn")) if namer is None else namer(layer)
    return f"{body}.{end}"


def resnet_of(weights) -> str:
    """Which ResNet a state dict with torchvision's names holds.

    Raises:
      UserError: none of those with four stages of known lengths.
    """
    counts = tuple(
        len({name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    kind = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
    if (kind, counts) not in RESNET_BLOCKS:
        raise UserError(
            f"The state dict should hold a ResNet-18, 34, 50, 101 or 152 with torchvision's names; it has {kind} "
            f"blocks {counts} in layer1 to layer4."
        )
    return RESNET_BLOCKS[kind, counts]


def _resnet(layer: list[str]) -> str:
    if layer[0] == "stem":
        return "conv1" if layer[1] == "conv" else "bn1"
    stage, block = torch_layout.numbers(r"stage_(\d+)_block_(\d+)", layer[0])
    part, kind = layer[1], layer[2]
    if part == "skip":
        return f"layer{stage}.{block}.downsample.{0 if kind == 'conv' else 1}"
    return f"layer{stage}.{block}.{part if kind == 'conv' else part.replace('conv', 'bn')}"


def _vgg(layer: list[str], *, batch_norm: bool) -> str:
    """Convolutions, normalisations, activations and poolings are counted in one row there."""
    block, conv = torch_layout.numbers(r"block_(\d+)_conv_(\d+)", layer[0])
    width = 3 if batch_norm else 2
    index = sum(count * width + 1 for count in VGG_CONVS[: block - 1]) + conv * width
    return f"features.{index + (layer[1] == 'norm')}"


def _xception(layer: list[str]) -> str:
    if layer[0].startswith("stem"):
        return f"{layer[0]}.{'conv' if layer[1] == 'conv' else 'bn'}"
    block = layer[0].replace("block", "blocks")
    if layer[1] == "skip":
        return f"{block}.shortcut.{'conv' if layer[2] == 'conv' else 'bn'}"
    half = "dw" if layer[2] == "depthwise" else "pw"
    return f"{block}.stack.{layer[1]}.{'conv' if layer[3] == 'conv' else 'bn'}_{half}"


def _efficientnet(layer: list[str]) -> str:
    if layer[0] == "stem":
        return "_conv_stem" if layer[1] == "conv" else "_bn0"
    stage, block = torch_layout.numbers(r"stage_(\d+)_block_(\d+)", layer[0])
    number = sum(count for *_, count in efficientnet.STAGES[:stage]) + block
    convs = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    return f"_blocks.{number}.{(convs if layer[2] == 'conv' else norms)[layer[1]]}"
