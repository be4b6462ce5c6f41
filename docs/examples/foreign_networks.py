"""Networks from elsewhere, as a researcher would bring them: a Flax module, and a function from names to variables.

    S=docs.examples.foreign_networks
    python launch.py --mode convert --source $S:wnet --input model_checkpoint.pth --output weights/wnet
    python launch.py --mode convert --source $S:meshnet --input model5_gw_ae/model.json --output weights/meshnet
    python launch.py --mode convert --source $S:cifar_resnet --input resnet20-12fca82f.th --output weights/resnet20

A source from outside is "package.module:function"; the function takes the file's arrays by name (and --field options)
and returns `(model, variables)`. `torch_layout.convert` fills every variable once and tells what is missing, left over
or of another shape. A converted folder starts a training with `--config.init.path=FOLDER` on a config whose
`config.model.name` is "docs.examples.foreign_networks:WNet".
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import layers
from jaxseg.transfer import torch_layout

# ---- Little W-Net (Galdran et al. 2022): two small residual U-Nets, the second sees the first one's answer ----


class WNet(nn.Module):
    """Two U-Nets in a row; logits of the second, those of the first as `aux["first"]`."""

    num_classes: int = 1
    features: tuple[int, ...] = (8, 16, 32)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"], train: bool = False):
        first = SmallUNet(self.num_classes, self.features, self.dtype, name="unet1")(image, train)
        both = jnp.concatenate([image, first], axis=-1)
        logits = SmallUNet(self.num_classes, self.features, self.dtype, name="unet2")(both, train)
        return logits.astype(jnp.float32), {"first": first}


class SmallUNet(nn.Module):
    """Residual blocks, 2x2 transposed convolutions, and a convolution on every skip."""

    num_classes: int
    features: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        skips = []
        for level, features in enumerate(self.features):
            x = ops.max_pool(x, 2) if level else x
            x = Shortcut(features, self.dtype, name=f"down_{level}")(x, train)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(len(skips))):
            features = self.features[level]
            up = layers.ConvTranspose(features, (2, 2), dtype=self.dtype, name=f"up_{level}")(x)
            bridge = ActivatedConv(features, self.dtype, name=f"bridge_{level}")(skips[level], train)
            x = Shortcut(features, self.dtype, name=f"join_{level}")(jnp.concatenate([up, bridge], -1), train)
        return layers.Conv(self.num_classes, (1, 1), dtype=self.dtype, name="head")(x)


class ActivatedConv(nn.Module):
    """Convolution, ReLU, then batch norm: the activation comes first here, which no ConvBlock does."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(layers.Conv(self.features, (3, 3), dtype=self.dtype, name="conv")(x))
        return layers.norm_layer("batch", train=train, dtype=self.dtype)(x)


class Shortcut(nn.Module):
    """Two of them, and a 1x1 convolution with batch norm around both."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        block = {"use_bias": False, "norm": "batch", "activation": "none", "dtype": self.dtype}
        around = layers.ConvBlock(self.features, (1, 1), name="shortcut", **block)(x, train)
        for i in range(2):
            x = ActivatedConv(self.features, self.dtype, name=f"conv_{i}")(x, train)
        return x + around


def wnet(state_dict: Mapping[str, np.ndarray], **fields: Any) -> tuple[WNet, dict]:
    """Converts `model_checkpoint.pth` of github.com/agaldran/lwnet."""
    model = WNet(**fields)
    lowest = len(model.features) - 1

    def name_of(path):
        _, net, layer, *inner, leaf = path
        end = torch_layout.LEAVES[leaf]
        if layer == "head":
            return f"{net}.final.{end}"
        kind, level = layer.split("_")
        if kind == "down":
            body = "first" if level == "0" else f"down_path.{int(level) - 1}"
        else:
            part = {"up": "up_layer", "bridge": "conv_bridge_layer", "join": "conv_layer"}[kind]
            body = f"up_path.{lowest - 1 - int(level)}.{part}"
        if kind == "up":
            return f"{net}.{body}.block.0.{end}"
        if inner[0] == "shortcut":
            return f"{net}.{body}.shortcut.{0 if inner[1] == 'conv' else 1}.{end}"
        # a block counts convolution 0, ReLU 1, norm 2, convolution 3, ReLU 4, norm 5
        number = 3 * int(inner[0][-1]) if inner[0].startswith("conv_") else 0
        return f"{net}.{body}.block.{number + (2 if inner[-1] == 'norm' else 0)}.{end}"

    def layout_of(path):
        if path[-1] == "kernel" and path[2].startswith("up_"):
            return torch_layout.conv_transpose_kernel
        return torch_layout.layout(path)

    channels = state_dict["unet1.first.block.0.weight"].shape[1]
    variables = torch_layout.convert(
        model, state_dict, in_channels=channels, size=(8, 8), name_of=name_of, layout_of=layout_of, source="wnet"
    )
    return model, variables


# ---- MeshNet of brainchop (Masoud et al. 2023): dilated 3x3x3 convolutions with batch norm folded in ----


class MeshNet(nn.Module):
    """3x3x3 convolutions of growing and shrinking dilation with ReLU, then a 1x1x1 to the logits; no pooling at all."""

    num_classes: int = 3
    features: int = 5
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B D H W C"], train: bool = False):
        x = image
        for i, dilation in enumerate(self.dilations):
            conv = layers.Conv(self.features, (3,) * 3, dilation=dilation, dtype=self.dtype, name=f"conv_{i}")
            x = nn.relu(conv(x))
        return layers.logits_head(x, self.num_classes, dtype=self.dtype), {"features": x}


def meshnet(arrays: Mapping[str, np.ndarray], **fields: Any) -> tuple[MeshNet, dict]:
    """Converts a TensorFlow.js `model.json` of github.com/neuroneural/brainchop; kernels lie there as in ours.

    The file's arrays show everything but the dilations; those of model5_gw_ae are the default.
    """
    ordered = [name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel")]
    first, last = arrays[f"{ordered[0]}/kernel"], arrays[f"{ordered[-1]}/kernel"]
    model = MeshNet(**{"features": first.shape[-1], "num_classes": last.shape[-1], **fields})

    def name_of(path):
        _, layer, leaf = path
        number = -1 if layer == "head" else int(re.sub(r"\D", "", layer))
        return f"{ordered[number]}/{leaf}"

    variables = torch_layout.convert(
        model,
        arrays,
        in_channels=first.shape[-2],
        size=(8, 8, 8),
        name_of=name_of,
        layout_of=lambda path: lambda array: array,
        source="meshnet",
    )
    return model, variables


# ---- ResNet-20 to 110 for CIFAR-10 (He et al. 2016, section 4.2) ----


class CifarResNet(nn.Module):
    """Three stages of basic blocks at widths 16, 32, 64; skips of every second pixel and zero channels."""

    num_classes: int = 10
    blocks: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W C"], train: bool = False):
        block = {"use_bias": False, "norm": "batch", "activation": "relu", "dtype": self.dtype}
        linear = {**block, "activation": "none"}
        x = layers.ConvBlock(16, (3, 3), name="stem", **block)(image, train)
        stages = {1: x}
        for stage in range(3):
            for i in range(self.blocks):
                stride = 2 if stage and i == 0 else 1
                name = f"stage_{stage}_block_{i}"
                width = 16 * 2**stage
                y = layers.ConvBlock(width, (3, 3), strides=stride, name=f"{name}_conv1", **block)(x, train)
                y = layers.ConvBlock(width, (3, 3), name=f"{name}_conv2", **linear)(y, train)
                if stride == 2:
                    extra = (width - x.shape[-1]) // 2
                    x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (extra, extra)))
                x = nn.relu(x + y)
            stages[2**stage] = x
        features = x.mean((1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(features), {"stages": stages}


def cifar_resnet(state_dict: Mapping[str, np.ndarray], **fields: Any) -> tuple[CifarResNet, dict]:
    """Converts the `.th` files of github.com/akamaster/pytorch_resnet_cifar10."""
    blocks = len({name.split(".")[1] for name in state_dict if name.startswith("layer1.")})
    model = CifarResNet(blocks=blocks, **fields)

    def name_of(path):
        _, layer, *inner, leaf = path
        end = torch_layout.LEAVES[leaf]
        if layer == "head":
            return f"linear.{end}"
        if layer == "stem":
            return f"{'conv1' if inner[0] == 'conv' else 'bn1'}.{end}"
        stage, block, conv = re.findall(r"\d+", layer)
        return f"layer{int(stage) + 1}.{block}.{'conv' if inner[0] == 'conv' else 'bn'}{conv}.{end}"

    def layout_of(path):
        return torch_layout.dense_kernel if path[1:] == ("head", "kernel") else torch_layout.layout(path)

    variables = torch_layout.convert(
        model, state_dict, in_channels=3, size=(8, 8), name_of=name_of, layout_of=layout_of, source="cifar_resnet"
    )
    return model, jax.tree.map(jnp.asarray, variables)
