"""MONAI's networks: UNet -> our `ResidualUNet`, VNet -> `VNet`, SegResNet -> `SegResNet`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxseg import models
from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

Weights = Mapping[str, np.ndarray]
LEAVES = {**torch_layout.LEAVES, "slope": "weight"}
UNIT_PARTS = {"conv": "conv", "norm": "adn.N", "prelu": "adn.A", "residual": "residual"}
VNET_CONV_PARTS = {"conv": "conv_block.conv", "norm": "conv_block.adn.N", "prelu": "act_function"}
# `from_torch` has one set of names for all sources; these are the networks' own.
ALIASES = {"kernels": "kernel", "convs": "encoder_convs", "blocks": "blocks_down"}


def unet(state_dict: Weights, **fields: Any) -> tuple[Any, dict]:
    """Converts MONAI's UNet; see `transfer.from_torch`.

    Beside the strides, a state dict hides what has no parameters: without those of a normalisation, `norm` is taken to
    be MONAI's default, "instance"; without slopes of PReLU, `activation` has to be given. A scale and bias are taken to
    be instance norm's; give norm="group" for group norm's.
    """
    source = "monai:UNet"
    if fields.get("strides") is None:
        raise UserError(
            f"{source} needs strides, one entry a level such as (2, 2, 2): the state dict does not show them."
        )
    found = _unet_fields(state_dict, source)
    if "activation" not in found and "activation" not in fields:
        raise UserError(f"{source} needs activation, such as 'relu': the state dict has no slopes of PReLU.")
    levels = len(found["features"]) - 1
    if len(fields["strides"]) != levels:
        raise UserError(
            f"{source} has {levels} strided levels in the state dict; strides has {len(fields['strides'])} entries."
        )
    stem = "model.0.conv.unit0.conv.weight" if found["num_res_units"] else "model.0.conv.weight"
    return _converted("residual_unet:ResidualUNet", found, fields, state_dict, stem, _unet_name, source)


def vnet(state_dict: Weights, **fields: Any) -> tuple[Any, dict]:
    """Converts MONAI's VNet; see `transfer.from_torch`. Without slopes of PReLU, `activation` is taken to be "elu"."""
    source = "monai:VNet"
    found, weights = _vnet_fields(state_dict, source), dict(state_dict)
    if found["conv_bias"]:  # MONAI's `bias=True` leaves the decoder's convolutions without: zeros change nothing
        for level, count in enumerate(found["decoder_convs"]):
            for i in range(count):
                conv = f"{_vnet_decoder(level)}.ops.{i}.conv_block.conv"
                weights.setdefault(f"{conv}.bias", np.zeros(len(weights[f"{conv}.weight"]), np.float32))
    return _converted("vnet:monai_vnet", found, fields, weights, "in_tr.conv_block.conv.weight", _vnet_name, source)


def segresnet(state_dict: Weights, **fields: Any) -> tuple[Any, dict]:
    """Converts MONAI's SegResNet (`upsample_mode="nontrainable"`); see `transfer.from_torch`."""
    source = "monai:SegResNet"
    found = _segresnet_fields(state_dict, source)
    return _converted("segresnet:SegResNet", found, fields, state_dict, "convInit.conv.weight", _segresnet_name, source)


def _converted(
    attribute: str,
    found: dict[str, Any],
    fields: dict[str, Any],
    weights: Weights,
    stem: str,
    name_of: Callable[[torch_layout.Path, Any], str],
    source: str,
) -> tuple[Any, dict]:
    in_channels = torch_layout.channels(weights[stem], fields.pop("in_channels", None), source)
    own = {ALIASES.get(field, field): value for field, value in fields.items()}
    model = models.create(f"jaxseg.models.{attribute}", **{**found, **own})
    transposed = source != "monai:SegResNet"  # whose "up" is a 1x1 convolution
    try:
        variables = torch_layout.convert(
            model,
            weights,
            in_channels=in_channels,
            size=model.divisor,
            name_of=lambda path: name_of(path, model),
            layout_of=lambda path: _layout(path, transposed),
            source=source,
        )
    except UserError:
        raise
    except ValueError as error:  # a field that was given does not go with what the state dict shows
        raise UserError(f"{source} with these fields: {error}") from error
    return model, variables


def _layout(path: torch_layout.Path, transposed: bool) -> Callable[[np.ndarray], np.ndarray]:
    if transposed and path[1].endswith("_up") and path[-1] == "kernel":
        return torch_layout.conv_transpose_kernel
    return torch_layout.layout(path)


def _unet_fields(weights: Weights, source: str) -> dict[str, Any]:
    residual = "model.0.conv.unit0.conv.weight" in weights
    unit, up = ("conv.unit0.", "model.2.0.conv.weight") if residual else ("", "model.2.conv.weight")
    levels = 0
    while f"{_unet_level(levels)}0.{unit}conv.weight" in weights:
        levels += 1
    bottom = f"{_unet_level(levels)}{unit}conv.weight"
    torch_layout.require(weights, (f"model.0.{unit}conv.weight", bottom, up), source)
    shapes = [weights[f"{_unet_level(level)}0.{unit}conv.weight"].shape for level in range(levels)]
    adn = f"model.0.{unit}adn"
    norm = "batch" if f"{adn}.N.running_mean" in weights else "instance_affine"
    found = {
        "ndim": len(shapes[0]) - 2,
        "num_classes": weights[up].shape[1],
        "features": (*(shape[0] for shape in shapes), weights[bottom].shape[0]),
        "num_res_units": _count(weights, "model.0.conv.unit{}.conv.weight"),
        "kernel": tuple(shapes[0][2:]),
        "up_kernel": tuple(weights[up].shape[2:]),
        "norm": norm if f"{adn}.N.weight" in weights else "instance",
        "conv_bias": f"model.0.{unit}conv.bias" in weights,
    }
    if f"{adn}.A.weight" in weights:
        found["activation"] = "prelu_shared" if weights[f"{adn}.A.weight"].size == 1 else "prelu"
    return found


def _unet_level(level: int) -> str:
    """MONAI nests the levels: encoder `0`, what lies below `1.submodule`, decoder `2`."""
    return "model." + "1.submodule." * level


def _unet_name(path: torch_layout.Path, model: Any) -> str:
    _, layer, *inner, leaf = path
    part, *rest = layer.split("_")
    if part == "bottom":
        body = _unet_level(len(model.features) - 1)
    elif part == "encoder":
        body = f"{_unet_level(int(rest[0]))}0."
    elif model.num_res_units:
        body = f"{_unet_level(int(rest[0]))}2.{'0' if rest[-1] == 'up' else '1'}."
    else:
        body = f"{_unet_level(int(rest[0]))}2."
    parts = [UNIT_PARTS[name] if name in UNIT_PARTS else "conv." + name.replace("_", "") for name in inner]
    return body + ".".join([*parts, LEAVES[leaf]])


def _vnet_fields(weights: Weights, source: str) -> dict[str, Any]:
    encoder, decoder = [_vnet_encoder(level) for level in range(5)], [_vnet_decoder(level) for level in range(4)]
    first, last = "in_tr.conv_block.conv.weight", "out_tr.conv2.weight"
    downs = [f"{name}.down_conv.weight" for name in encoder[1:]]
    convs = "{}.ops.{{}}.conv_block.conv.weight"
    blocks = [convs.format(name) for name in (*encoder[1:], *decoder)]
    torch_layout.require(weights, (first, last, *downs, *(block.format(0) for block in blocks)), source)
    counts = [_count(weights, block) for block in blocks]
    found = {
        "ndim": weights[first].ndim - 2,
        "num_classes": weights[last].shape[0],
        "features": tuple(len(weights[name]) for name in (first, *downs)),
        "encoder_convs": (1, *counts[:4]),
        "decoder_convs": tuple(counts[4:]),
        "conv_bias": "in_tr.conv_block.conv.bias" in weights,
        "activation": "elu",
    }
    slopes = weights.get("in_tr.act_function.weight")
    if slopes is not None:
        found["activation"] = "prelu_shared" if slopes.size == 1 else "prelu"
    return found


def _vnet_encoder(level: int) -> str:
    """MONAI names the levels after the channels that they have by default."""
    return f"down_tr{16 * 2**level}" if level else "in_tr"


def _vnet_decoder(level: int) -> str:
    return f"up_tr{32 * 2**level}"


def _vnet_name(path: torch_layout.Path, model: Any) -> str:
    _, layer, *inner, leaf = path
    side, *rest = layer.split("_")
    name = inner[0] if inner else ""
    if layer == "head":
        return f"out_tr.conv2.{LEAVES[leaf]}"
    if layer == "head_conv":
        body = f"out_tr.{VNET_CONV_PARTS[name]}{'1' if name == 'prelu' else ''}"
        return f"{body}.{LEAVES[leaf]}"
    level = int(rest[0])
    body = _vnet_encoder(level) if side == "encoder" else _vnet_decoder(level)
    kind = rest[1]
    if kind == "prelu":
        body += ".act_function" + ("2" if body != "in_tr" else "")
    elif kind == "conv":
        body += f".{VNET_CONV_PARTS[name]}" if body == "in_tr" else f".ops.{rest[2]}.{VNET_CONV_PARTS[name]}"
    elif kind == "down":
        body += {"conv": ".down_conv", "norm": ".bn1", "prelu": ".act_function1"}[name]
    elif kind == "up":
        body += {"": ".up_conv", "norm": ".bn1", "prelu": ".act_function1"}[rest[2] if len(rest) > 2 else ""]
    else:  # the projection of an image whose channels do not divide the features, which MONAI has not
        body += f".{kind}"
    return f"{body}.{LEAVES[leaf]}"


def _segresnet_fields(weights: Weights, source: str) -> dict[str, Any]:
    down, up = "down_layers.{}.{}.conv1.conv.weight", "up_layers.{}.{}.conv1.conv.weight"
    first, last = "convInit.conv.weight", "conv_final.2.conv.weight"
    torch_layout.require(weights, (first, down.format(0, 1), up.format(0, 0), last), source)
    blocks = [  # number 0 of an encoder level is its strided convolution
        tuple(_count(weights, names.format(i, "{}"), start) for i in range(_count(weights, names.format("{}", start))))
        for names, start in ((down, 1), (up, 0))
    ]
    stem = weights[first].shape
    return {
        "ndim": len(stem) - 2,
        "num_classes": weights[last].shape[0],
        "init_filters": stem[0],
        "blocks_down": blocks[0],
        "blocks_up": blocks[1][::-1],  # MONAI counts the decoder from its deepest level
        "norm": "batch" if "conv_final.0.running_mean" in weights else "group",
    }


def _segresnet_name(path: torch_layout.Path, model: Any) -> str:
    _, layer, *inner, leaf = path
    side, *rest = layer.split("_")
    fixed = {"stem": "convInit.conv", "head_norm": "conv_final.0", "head": "conv_final.2.conv"}
    if layer in fixed:
        body = fixed[layer]
    elif rest[1] == "down":
        body = f"down_layers.{rest[0]}.0.conv"
    elif rest[1] == "up":
        body = f"up_samples.{len(model.blocks_up) - 1 - int(rest[0])}.0.conv"
    elif side == "encoder":
        body = f"down_layers.{rest[0]}.{int(rest[2]) + 1}"
    else:
        body = f"up_layers.{len(model.blocks_up) - 1 - int(rest[0])}.{rest[2]}"
    parts = [f"{name}.conv" if name.startswith("conv") else name for name in inner]
    return ".".join([body, *parts, LEAVES[leaf]])


def _count(weights: Weights, pattern: str, first: int = 0) -> int:
    """How many numbers, from `first` on, fill the pattern's gap without a hole."""
    n = first
    while pattern.format(n) in weights:
        n += 1
    return n - first
